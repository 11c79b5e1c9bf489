from __future__ import annotations

import pytest

from harness.cell import distinct_titles, weights_of
from harness.cli.common import parse_assignments
from harness.errors import UserError
from harness.registry import Registry
from harness.spec import Grid, expand, experiment

REGISTRY = Registry()


def test_a_grid_expands_in_a_stable_order_without_repeats() -> None:
    grid = Grid(methods="vitpcm,cam", seeds="0,1", refine="none,crf:vitpcm")
    cells = expand([grid, grid], REGISTRY)
    assert len(cells) == 2 * 2 * 2
    assert [cell.spec.method for cell in cells][:4] == ["vitpcm"] * 4
    assert cells == expand([grid, grid], REGISTRY)


def test_a_method_without_backbone_is_one_cell() -> None:
    cells = expand([Grid(methods="sanity-background", backbones="vit_s16,resnet50")], REGISTRY)
    assert [cell.spec.backbone for cell in cells] == ["none"]


def test_settings_come_from_flag_before_dataset_before_default() -> None:
    (cell,) = expand([Grid(methods="vitpcm", set={"vitpcm.hidden": 8, "*.epochs": 3})], REGISTRY)
    assert cell.spec.params["hidden"] == 8
    assert cell.spec.params["epochs"] == 3
    assert cell.spec.params["image_size"] == 96
    assert cell.spec.params["dropout"] == 0.2
    assert cell.origins["hidden"] == cell.origins["epochs"] == "--set"
    assert cell.origins["image_size"] == cell.origins["weights"] == "dataset toy"
    assert "dropout" not in cell.origins


def test_a_weights_file_leaves_no_path_in_the_spec() -> None:
    (cell,) = expand([Grid(methods="cam", weights="/home/somebody/w.safetensors")], REGISTRY)
    assert cell.spec.weights == "file"
    assert "somebody" not in cell.spec.model_dump_json()


def test_a_protocol_field_can_be_set_and_is_remembered() -> None:
    (cell,) = expand([Grid(methods="cam", set={"protocol.class_gating.held_out": "gt"})], REGISTRY)
    assert str(cell.spec.protocol.class_gating.held_out) == "gt"
    assert str(cell.spec.protocol.class_gating.training) == "gt"
    assert cell.origins["protocol.class_gating.held_out"] == "--set"


def test_a_method_without_background_is_skipped_with_a_reason_where_the_protocol_wants_one() -> None:
    cells = expand([Grid(methods="cam,vitpcm", set={"protocol.background": "model"})], REGISTRY)
    assert ["has none" in cell.skip for cell in cells] == [True, False]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"methods": "camm"}, "unknown method 'camm': did you mean 'cam'"),
        ({"methods": "cam", "backbones": "vit_s61"}, "unknown backbone 'vit_s61': did you mean 'vit_s16'"),
        ({"methods": "cam", "backbones": "timm:resnet5O"}, "timm has no model 'resnet5O': did you mean 'resnet50'"),
        ({"methods": "cam", "datasets": "tyo"}, "unknown dataset 'tyo': did you mean 'toy'"),
        ({"methods": "cam", "protocols": "strickt"}, "unknown protocol 'strickt': did you mean 'strict'"),
        ({"methods": "cam", "set": {"cam.epoch": 1}}, "unknown key 'epoch': did you mean 'epochs'"),
        ({"methods": "cam", "set": {"vitpcm.epochs": 1}}, "no such method in this run"),
        ({"methods": "cam", "set": {"protocol.sizes": 1}}, "unknown key 'sizes': did you mean 'size'"),
        ({"methods": "cam", "set": {"cam.epochs": "many"}}, "epochs: Input should be a valid integer"),
        ({"methods": "cam", "refine": "crff"}, "unknown refiner 'crff': did you mean 'crf'"),
        ({"methods": "cam", "refine": "crf:vitpmc"}, "unknown crf 'vitpmc': did you mean 'vitpcm'"),
        ({"methods": "cam", "refine": "crf"}, "refiner 'crf' needs a preset: .*crf:vitpcm"),
    ],
)
def test_a_mistake_is_named_with_the_closest(grid: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand([Grid(**grid)], REGISTRY)  # type: ignore[arg-type]


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignments(["cam.epochs=3", "protocol.scales=[1, 0.5]", "vitpcm.jitter=false"]) == {
        "cam.epochs": 3, "protocol.scales": [1, 0.5], "vitpcm.jitter": False,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"expected METHOD\.KEY=VALUE"):
        parse_assignments(["epochs=3"])


@pytest.mark.parametrize("name", REGISTRY.names("experiment"))
def test_every_experiment_expands(name: str) -> None:
    assert expand(experiment(REGISTRY, name).grids, REGISTRY)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("hub", "hub"), ("a.pt", "a.pt"), ("resnet50=hub,vit_s16=x/y.pt", "x/y.pt"), ("resnet50=hub,random", "random")],
)
def test_weights_of_a_backbone(choice: str, expected: str) -> None:
    assert weights_of(choice, "vit_s16") == (expected, "")


def test_a_cell_whose_backbone_has_no_weights_is_skipped_and_the_others_are_not() -> None:
    wanted = Grid(methods="cam", backbones=("timm:test_vit", "timm:test_resnet"), weights="timm:test_vit=random")
    vit, resnet = expand([wanted], REGISTRY)
    assert (vit.weights, vit.skip) == ("random", "")
    assert resnet.skip.startswith("--weights names none for timm:test_resnet")


def test_cells_of_one_title_are_told_apart_by_what_differs() -> None:
    grids = [Grid(methods="cam,vitpcm", set={"protocol.background": f"fixed:{value}"}) for value in (0.3, 0.5)]
    titles = distinct_titles(
        [cell.spec for cell in expand([*grids, Grid(methods="dino", backbones="vit_s16")], REGISTRY)]
    )
    assert len(set(titles)) == len(titles) == 5
    assert titles[0] == "cam/vit_s16/toy/strict/s0 (protocol.background=fixed:0.3)"
    assert titles[-1] == "dino/vit_s16/toy/strict/s0"


def test_what_most_cells_of_a_title_share_is_not_in_it() -> None:
    flips = [{}, {"protocol.flip": "mean"}, {"protocol.flip": "max"}, {"protocol.metric": "present"}, {"cam.epochs": 3}]
    cells = expand([Grid(methods="cam", set=own) for own in flips], REGISTRY)
    assert [title.partition(" ")[2] for title in distinct_titles([cell.spec for cell in cells])] == [
        "", "(protocol.flip=mean)", "(protocol.flip=max)", "(protocol.metric=present)", "(epochs=3)",
    ]  # fmt: skip
