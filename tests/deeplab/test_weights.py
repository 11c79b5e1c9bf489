from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from harness.deeplab.model import build
from harness.deeplab.recipe import Recipe, load_recipe
from harness.deeplab.weights import initialise
from harness.errors import EnvironmentUnfitError, UserError
from harness.files import hash_file
from harness.registry import Registry
from tests.deeplab.test_recipe import recipe

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # of ResNet-50
CAFFE = recipe(backbone="resnet50", style="caffe")
TORCHVISION = recipe(backbone="resnet50")
TIMM = recipe(backbone="timm:test_resnet", style=None, pixels=None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def caffe_state(classes: int = 91) -> dict[str, Tensor]:
    """A ResNet-50 under the names of deeplab-pytorch, classifier included, with numbers out of a hat."""
    shapes = {"layer1.conv1": (64, 3, 7)}
    for stage, blocks in BLOCKS.items():
        middle, before = 64 * 2 ** (stage - 2), 64 if stage == 2 else 64 * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            name, inside = f"layer{stage}.block{block}", before if block == 1 else 4 * middle
            shapes[f"{name}.reduce"] = (middle, inside, 1)
            shapes[f"{name}.conv3x3"] = (middle, middle, 3)
            shapes[f"{name}.increase"] = (4 * middle, middle, 1)
            if block == 1:
                shapes[f"{name}.shortcut"] = (4 * middle, before, 1)
    state = {"fc.weight": torch.zeros(classes, 2048, 1, 1), "fc.bias": torch.zeros(classes)}
    for name, (out, inside, side) in shapes.items():
        state[f"{name}.conv.weight"] = torch.randn(out, inside, side, side) / (inside * side * side) ** 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = torch.rand(out) + 0.5
    return state


def caffe_forward(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """What deeplab-pytorch computes with them, up to the head, in plain functions."""

    def unit(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        x = functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2 * dilation, dilation)
        mean, var, scale, shift = (state[f"{name}.bn.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, scale, shift)

    x = functional.max_pool2d(unit(images, "layer1.conv1", 2).relu(), 3, 2, 1, ceil_mode=True)
    for stage, blocks in BLOCKS.items():
        for block in range(1, blocks + 1):
            name, stride = f"layer{stage}.block{block}", 2 if (stage, block) == (3, 1) else 1
            inner = unit(x, f"{name}.reduce", stride).relu()
            inner = unit(inner, f"{name}.conv3x3", 1, {4: 2, 5: 4}.get(stage, 1)).relu()
            x = (unit(inner, f"{name}.increase") + (unit(x, f"{name}.shortcut", stride) if block == 1 else x)).relu()
    return x


def torchvision_state(name: str, **options: Any) -> dict[str, Tensor]:
    from torchvision import models

    state: dict[str, Tensor] = getattr(models, name)(**options).state_dict()
    return state


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("prefix", ["", "base."])
def test_a_caffe_checkpoint_makes_the_network_that_it_is_of(tmp_path: Path, prefix: str) -> None:
    state = caffe_state()
    path = saved({prefix + name: value for name, value in state.items()}, tmp_path / "deeplabv1_resnet50-coco.pth")
    model = build(CAFFE, 21).eval()
    head = model.decode_head.branches[0].weight.clone()
    about = initialise(model, CAFFE, "coco", path)
    images = torch.rand(1, 3, 64, 81)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(images)[0], caffe_forward(state, images))
    assert torch.equal(model.decode_head.branches[0].weight, head)
    assert about == {
        "init": "coco", "file": path.name, "sha256": hash_file(path), "tensors": 53 * 5,
        "left_out": ["fc.bias", "fc.weight"],
    }  # fmt: skip


def test_torchvisions_checkpoint_fits_the_torchvision_style(tmp_path: Path) -> None:
    state = {n: v for n, v in torchvision_state("resnet50").items() if "num_batches" not in n}  # as the first ones
    model = build(TORCHVISION, 21)
    about = initialise(model, TORCHVISION, "imagenet", saved(state, tmp_path / "resnet50-19c8e357.pth"))
    assert about["tensors"] == len(state) - 2
    assert torch.equal(model.backbone.layer3[5].conv2.weight, state["layer3.5.conv2.weight"])


def v1c_state() -> dict[str, Tensor]:
    model = build(recipe(backbone="resnet50", style="v1c"), 2)
    state: dict[str, Tensor] = model.backbone.state_dict()
    return {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("style", "made", "message"),
    [
        (
            "caffe",
            "torchvision",
            r"\(caffe\): it lacks bn1.bias, .* … and has unknown bn1.bias \(not caffe's\)",
        ),
        ("caffe", "v1c", r"resnet50 \(caffe\): it lacks bn1.bias, .* and has unknown .*"),
        ("torchvision", "caffe", r"it lacks bn1.bias, .* and has unknown layer1.conv1.bn.bias"),
        ("torchvision", "v1c", r"it lacks bn1.bias, .* and has unknown stem.0.weight"),
        ("v1c", "torchvision", r"it lacks stem.0.weight, .* and has unknown bn1.bias"),
        ("v1c", "caffe", r"it lacks layer1.0.bn1.bias, .* and has unknown layer1.conv1.bn.bias"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_the_keys(
    tmp_path: Path, style: str, made: str, message: str
) -> None:
    makers = {"caffe": caffe_state, "torchvision": lambda: torchvision_state("resnet50"), "v1c": v1c_state}
    path = saved(makers[made](), tmp_path / "other.pth")
    of = recipe(backbone="resnet50", style=style)
    model = build(of, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        initialise(model, of, "file", path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.block1.shortcut.conv.weight"), "it lacks layer1.0.downsample.0.weight$"),
        (lambda state: state.update({"layer6.x": torch.ones(1)}), r"it has unknown layer6.x \(not caffe's\)$"),
        (
            lambda state: state.update({"layer1.conv1.conv.weight": torch.ones(64, 3, 3, 3)}),
            r"conv1.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)$",
        ),
    ],
)
def test_partial_and_misshapen_weights_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    state = caffe_state()
    change(state)
    with pytest.raises(UserError, match=message):
        initialise(build(CAFFE, 2), CAFFE, "coco", saved(state, tmp_path / "w.pth"))


def test_another_depth_is_refused(tmp_path: Path) -> None:
    path = saved(torchvision_state("resnet18"), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"resnet18.pth does not fit resnet50 \(torchvision\): it lacks layer1.0.bn3"):
        initialise(build(TORCHVISION, 2), TORCHVISION, "imagenet", path)


@pytest.mark.parametrize(("init", "classes"), [("imagenet", 91), ("coco", 1000)])
def test_a_checkpoint_of_other_classes_than_is_said_is_refused(tmp_path: Path, init: str, classes: int) -> None:
    """It would be a comparison under the wrong name, worth one to three points of mIoU."""
    path = saved(caffe_state(classes), tmp_path / "w.pth")
    expected = {"imagenet": 1000, "coco": 91}[init]
    with pytest.raises(UserError, match=f"w.pth has {classes} classes, and {init} has {expected}: say what it is"):
        initialise(build(CAFFE, 2), CAFFE, init, path)
    assert initialise(build(CAFFE, 2), CAFFE, "file", path)["init"] == "file"


@pytest.mark.parametrize(
    ("of", "init", "path", "message"),
    [
        (CAFFE, "coco", None, r"resnet50 \(caffe\) from coco takes a file: deeplabv1_resnet101-coco.pth"),
        (TORCHVISION, "imagenet", Path("gone.pth"), "no weights file gone.pth: .* takes torchvision's"),
        (CAFFE, "random", Path("w.pth"), "w.pth has no place in a random initialisation"),
        (
            TIMM,
            "coco",
            None,
            "there are no COCO weights of timm",
        ),
        (TIMM, "file", None, "from a file takes one"),
    ],
)
def test_what_is_missing_is_said(of: Recipe, init: str, path: Path | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        initialise(build(of, 2), of, init, path)


def test_random_weights_stay_as_they_were_drawn() -> None:
    model = build(TORCHVISION, 2)
    before = model.backbone.conv1.weight.clone()
    assert initialise(model, TORCHVISION, "random") == {"init": "random"}
    assert torch.equal(model.backbone.conv1.weight, before)


def test_timms_weights_come_from_a_file_or_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    toy = load_recipe("toy", Registry())
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    model = build(toy, 4)
    about = initialise(model, toy, "imagenet", tmp_path / "w.safetensors")
    assert torch.equal(model.backbone.net.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])
    assert (about["file"], about["sha256"]) == ("w.safetensors", hash_file(tmp_path / "w.safetensors"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentUnfitError, match="the model hub cannot be reached"):
        initialise(model, toy, "imagenet")
    del state["layer4.0.conv1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit test_resnet: it lacks layer4.0.conv1.weight"):
        initialise(model, toy, "imagenet", tmp_path / "w.safetensors")
