from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import Refiner, RefinerParams
from harness.pseudomask import background_is_closed, open_classes, probabilities
from harness.registry import Registry
from harness.rules import Rules
from harness.spec import Grid, expand, experiment, refiner_config
from harness.stages.mask import best_class, load_refiner
from harness.strict import canonical

LABELS = np.array([1, 0, 1])
PRESENCE = np.array([0.9, 0.2])


@pytest.mark.parametrize(
    ("gating", "expected"),
    [("gt", [2]), ("predicted:0.5", [1]), ("predicted:0.9", [1]), ("none", [1, 2]), ("predicted:0", [1, 2])],
)
def test_gating(gating: str, expected: list[int]) -> None:
    assert open_classes(Rules(gating, "none", "model"), LABELS, PRESENCE).tolist() == expected


def test_predicted_gating_without_presence_is_an_error() -> None:
    with pytest.raises(ValueError, match="no presence"):
        open_classes(Rules("predicted:0.5", "none", "model"), LABELS, None)


def test_activations_are_divided_by_their_maximum_and_meet_a_fixed_background() -> None:
    scores = np.array([[[4.0, 1.0]], [[0.0, 8.0]]], np.float16)
    found = probabilities(scores, np.array([1, 2]), (1, 2), Rules("none", "max", "fixed:0.4"), "activation")
    assert found.numpy() == pytest.approx(np.array([[[0.4, 0.4]], [[1.0, 0.25]], [[0.0, 1.0]]]))


def test_minmax_starts_at_the_minimum() -> None:
    scores = np.array([[[2.0, 4.0]]], np.float16)
    found = probabilities(scores, np.array([1]), (1, 2), Rules("none", "minmax", "fixed:0.4"), "activation")
    assert found[1].numpy() == pytest.approx(np.array([[0.0, 1.0]]))


def test_power_background() -> None:
    scores = np.array([[[1.0, 0.5]]], np.float16)
    found = probabilities(scores, np.array([1]), (1, 2), Rules("none", "max", "power:2"), "activation")
    assert found[0].numpy() == pytest.approx(np.array([[0.0, 0.25]]))


def test_probabilities_are_left_alone_but_under_vitpcm() -> None:
    scores = np.array([[[0.8, 0.5]], [[0.1, 0.3]], [[0.1, 0.2]]], np.float16)
    plain = probabilities(scores, np.array([1]), (1, 2), Rules("gt", "max", "model"), "probability")
    assert plain.numpy() == pytest.approx(scores[:2].astype(np.float32))
    stretched = probabilities(scores, np.array([1]), (1, 2), Rules("gt", "vitpcm", "model"), "probability")
    first = np.array([1.0, 1 / 3]) / (1 + 1 / 3)
    second = np.array([0.625, 1.0]) / 1.625
    assert stretched[:, 0, 0].numpy() == pytest.approx(first, abs=2e-3)
    assert stretched[:, 0, 1].numpy() == pytest.approx(second, abs=2e-3)


def test_no_open_class_is_all_background() -> None:
    scores = np.ones((2, 1, 1), np.float16)
    nothing = np.array([], int)
    found = probabilities(scores, nothing, (2, 3), Rules("gt", "max", "fixed:0.4"), "activation")
    assert found.shape == (1, 2, 3)
    assert found.min() > 0


def test_resizing_keeps_corners_only_when_asked() -> None:
    scores = np.array([[[0.0, 1.0]]], np.float16)
    corners = probabilities(scores, np.array([1]), (1, 4), Rules("none", "max", "fixed:0", True), "activation")[1]
    centres = probabilities(scores, np.array([1]), (1, 4), Rules("none", "max", "fixed:0", False), "activation")[1]
    assert corners[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert centres[0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_an_image_without_background_pixels_has_no_background_under_vitpcm() -> None:
    """The official merge multiplies by the image labels, the background's among them."""
    scores = np.array([[[0.7, 0.2]], [[0.2, 0.1]], [[0.1, 0.7]]], np.float16)
    rules = Rules("gt", "none", "model", gated_background=True)
    without, shown = np.array([0, 1, 1]), np.array([1, 1, 1])
    classes = open_classes(rules, without, None)
    assert (background_is_closed(rules, without), background_is_closed(rules, shown)) == (True, False)
    open_background = best_class(scores, classes, (1, 2), rules, "probability")
    assert open_background.tolist() == [[0, 2]]
    assert best_class(scores, classes, (1, 2), rules, "probability", closed=True).tolist() == [[1, 2]]
    (cell,) = expand([Grid(methods="vitpcm", protocols="vitpcm")], Registry())
    assert cell.spec.protocol.gated_background
    (older,) = expand([Grid(methods="vitpcm", protocols="vitpcm-1")], Registry())
    assert not older.spec.protocol.gated_background
    assert "gated_background" not in older.spec.model_dump(mode="json")["protocol"]


def test_nearest_upsampling_decides_at_the_grid() -> None:
    scores = np.array([[[1.0, 0.0]]], np.float16)
    rules = Rules("none", "none", "fixed:0.3", upsampling="nearest")
    assert best_class(scores, np.array([1]), (1, 8), rules, "activation").tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    linear = best_class(scores, np.array([1]), (1, 8), Rules("none", "none", "fixed:0.3"), "activation")
    assert linear.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]


def test_the_crf_of_vitpcm_resizes_with_half_pixel_centres_whatever_the_protocol(tmp_path: Path) -> None:
    scores = np.array([[[0.9, 0.1]], [[0.1, 0.9]]], np.float16)
    image = tmp_path / "grey.png"
    Image.new("RGB", (8, 4)).save(image)
    found = {}
    for corners in (True, False):
        config = refiner_config(Registry(), "crf:vitpcm", {"iterations": 0})
        refiner = load_refiner(config, Registry())
        rules = Rules("none", "none", "model", align_corners=corners)
        found[corners] = best_class(scores, np.array([1]), (4, 8), rules, "probability", refiner, image)
    assert np.array_equal(found[True], found[False])
    other = refiner_config(Registry(), "crf:irn")
    assert other
    assert "align_corners" not in other["params"]  # as the protocol says


@pytest.mark.parametrize("refines", ["maps", "probabilities"])
def test_a_refiner_knows_which_classes_it_is_given(tmp_path: Path, refines: str) -> None:
    class Watching(Refiner):
        def refine(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            seen.append((list(self.classes), len(probabilities)))
            return probabilities

    seen: list[tuple[list[int], int]] = []
    Watching.refines = refines  # type: ignore[assignment]
    Image.new("RGB", (8, 4)).save(tmp_path / "grey.png")
    scores, refiner = np.full((4, 2, 2), 0.5, np.float16), Watching(RefinerParams())
    for classes in ([1, 3], [2]):
        rules = Rules("none", "none", "fixed:0.3")
        best_class(scores, np.array(classes), (4, 8), rules, "activation", refiner, tmp_path / "grey.png")
    background = refines == "probabilities"
    assert seen == [([1, 3], 2 + background), ([2], 1 + background)]


def test_table_d_scores_the_model_of_table_1() -> None:
    registry = Registry()
    fits = {}
    for name in ("table1", "tableD"):
        for cell in expand(experiment(registry, name).grids, registry):
            spec = cell.spec
            if spec.method == "vitpcm" and spec.params["hv_bilstm"] and spec.protocol.refine == "none":
                fits.setdefault(name, set()).add(
                    canonical([spec.params, spec.backbone, spec.protocol.fit_split, str(spec.protocol.checkpoint)])
                )
    assert fits["tableD"] == fits["table1"]


def test_both_sides_of_table_3_have_one_budget_size_choice_and_l2() -> None:
    registry = Registry()
    cells = expand(experiment(registry, "table3").grids, registry)
    shared = ("epochs", "image_size", "inference_size", "batch_size", "accumulate", "lr", "l2")
    assert {cell.spec.method for cell in cells} == {"cam", "vitpcm"}
    assert (
        len({canonical([{k: c.spec.params[k] for k in shared}, str(c.spec.protocol.checkpoint)]) for c in cells}) == 1
    )


def test_coco_is_trained_without_crops_on_the_list_of_the_official_code() -> None:
    registry = Registry()
    cells = expand(experiment(registry, "tableC").grids, registry)
    assert {cell.spec.params["crop_probability"] for cell in cells} == {0.0}
    assert {(cell.spec.protocol.fit_split, *cell.spec.protocol.eval_splits) for cell in cells} == {
        ("train_vitpcm", "val_vitpcm")
    }


@pytest.mark.parametrize(("dataset", "source"), [("voc12", "xml"), ("coco14", "file"), ("voc12-animals", "file")])
def test_strict_takes_image_labels_from_annotations_where_there_are_any(dataset: str, source: str) -> None:
    (cell,) = expand([Grid(methods="cam", datasets=dataset)], Registry())
    assert cell.spec.protocol.label_source == source
