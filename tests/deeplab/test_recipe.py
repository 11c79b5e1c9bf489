from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.deeplab.recipe import Recipe, learning_rate, load_recipe
from harness.errors import UserError
from harness.registry import Registry
from harness.strict import parse

REGISTRY = Registry()
SMALL: dict[str, Any] = {
    "summary": "for a test", "source": "here", "backbone": "resnet18", "style": "torchvision", "init": "random",
    "pixels": {"order": "rgb", "mean": [120, 120, 120], "std": [60, 60, 60]}, "crop": 64, "batch_size": 2,
    "iterations": 40, "lr": 0.1, "bn": "frozen",
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    return parse(Recipe, SMALL | changes)


@pytest.mark.parametrize("name", REGISTRY.names("deeplab"))
def test_every_recipe_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    found = load_recipe(name, REGISTRY)
    assert found.summary
    assert found.source
    assert found.refine == "none" or found.refine.partition(":")[2] in REGISTRY.names("crf")


def test_kazutos_recipe_is_the_published_one() -> None:
    values = load_recipe("kazuto-coco", REGISTRY).model_dump(exclude={"summary", "source"})
    assert values == {
        "backbone": "resnet101", "style": "caffe", "first_block": "dilated", "init": "coco",
        "pixels": {"order": "bgr", "mean": (104.008, 116.669, 122.675), "std": (1, 1, 1)},
        "msc": (1, 0.75, 0.5), "losses": "msc", "crop": 321, "train_scales": (0.5, 0.75, 1, 1.25, 1.5), "flip": True,
        "batch_size": 5, "accumulate": 2, "iterations": 20000, "lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4,
        "multipliers": {"backbone": 1, "head_weight": 10, "head_bias": 20}, "power": 0.9, "lr_every": 10,
        "bn": "frozen", "stem": "trained", "test_scales": (1,), "test_flip": False, "refine": "crf:clip-es",
    }  # fmt: skip


def test_from_imagenet_kazutos_recipe_differs_in_its_start_alone() -> None:
    coco, imagenet = (
        load_recipe(f"kazuto-{init}", REGISTRY).model_dump(exclude={"summary", "source"})
        for init in ("coco", "imagenet")
    )
    assert {key for key in coco if coco[key] != imagenet[key]} == {"init"}


def test_johnnylus_recipe_is_the_published_one() -> None:
    found = load_recipe("johnnylu-imagenet", REGISTRY)
    assert (found.backbone, found.style, found.init, found.bn) == ("resnet101", "torchvision", "imagenet", "statistics")
    assert (found.crop, found.batch_size, found.accumulate, found.iterations) == (381, 26, 1, 90000)
    assert (found.lr, *found.multipliers.model_dump().values()) == (1e-3, 1, 1, 2)
    assert found.pixels
    assert found.pixels.mean == pytest.approx([255 * x for x in (0.45694514, 0.43669609, 0.40363202)])
    assert found.pixels.std == pytest.approx([255 * x for x in (0.27473737, 0.27164029, 0.28467983)])


def test_the_learning_rate_is_that_of_the_original_scheduler() -> None:
    """Which is stepped after each iteration, and sets the rate at multiples of `lr_every` alone."""
    kazuto = load_recipe("kazuto-coco", REGISTRY)
    rate, rates = 1.0, []
    for iteration in range(1, 20001):
        rates.append(rate)
        if iteration % 10 == 0:
            rate = (1 - iteration / 20000) ** 0.9
    assert [learning_rate(kazuto, iteration) for iteration in range(20000)] == rates


def test_there_is_no_rate_after_the_last_iteration() -> None:
    assert learning_rate(recipe(), 39) == pytest.approx(0.25**0.9)
    with pytest.raises(UserError, match="iteration 40 is outside of the recipe's 40"):
        learning_rate(recipe(), 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet34"}, "expected resnet18, resnet50, resnet101 or timm:<id>"),
        ({"style": None}, "a resnet needs its style and its pixels"),
        ({"pixels": None}, "a resnet needs its style and its pixels"),
        ({"style": "v1c"}, "resnet18 has no 1x1 convolutions"),
        ({"backbone": "timm:test_resnet"}, "are of resnets, not of timm's"),
        ({"msc": [0.5, 1]}, "msc: the first scale is 1"),
        ({"crop": 8}, "crop: .*(got 8)"),
        ({"test_scale": [1]}, "unknown key 'test_scale': did you mean 'test_scales'"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(**changes)


def test_a_recipe_of_ones_own_is_a_file_in_a_folder_named_deeplab(tmp_path: Path) -> None:
    folder = tmp_path / "deeplab"
    folder.mkdir()
    ours = (Path(__file__).parents[2] / "configs" / "deeplab" / "toy.yaml").read_text()
    (folder / "mine.yaml").write_text(ours.replace("crop: 96", "crop: big"))
    registry = Registry([str(folder / "mine.yaml")])
    line = ours[: ours.index("crop")].count("\n") + 1
    with pytest.raises(UserError, match=rf"mine\.yaml:{line}: crop: "):
        load_recipe("mine", registry)
    with pytest.raises(UserError, match="unknown deeplab 'mien': did you mean 'mine'"):
        load_recipe("mien", registry)
