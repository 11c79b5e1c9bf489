"""A method with a parent and a refiner that learns, through the real stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness import Session, training
from harness.backbones import Weights
from harness.inputs import Inputs
from harness.registry import Registry
from harness.results.record import curves_of
from harness.results.store import Store
from harness.run.plan import Plan, plan_cells
from harness.run.record import record_of
from harness.spec import Grid, expand
from harness.stages.fit import build_model
from tests.second import Child, ChildParams
from tests.stores import run_stages

REGISTRY = Registry((str(Path(__file__).parent / "second.py"),))
SMALL = {"*.image_size": 64, "*.inference_size": 64, "cam.epochs": 1, "child.epochs": 2, "*.batch_size": 4}


def planned(folder: Path, **grid: Any) -> Plan:
    fixed = {"backbones": "timm:test_resnet", "weights": "random", "limit": 8, "set": SMALL}
    return plan_cells(expand([Grid(**fixed | grid)], REGISTRY), Inputs(REGISTRY, folder, None))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    store = Store(tmp_path_factory.mktemp("second") / "results", create=True)
    plan = planned(store.root, methods="cam,child", refine="none,learner")
    node, outcome = run_stages(plan)
    assert outcome.status == "done", (node.stage, outcome)
    return plan, store


def test_a_parent_is_trained_once_and_is_the_own_cell_of_its_method(done: tuple[Plan, Store]) -> None:
    plan, store = done
    fits = [node for node in plan.nodes.values() if node.stage == "fit"]
    assert [node.config.method for node in fits] == ["cam", "child"]
    assert fits[1].parents["parent"] == fits[0].key == plan.cells[0].artefacts["fit"]
    before, after = (load_file(store.need("fit", node.key).file("model.safetensors")) for node in fits)
    assert after.keys() - before.keys() == {"seen"}
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_the_record_of_a_child_says_from_what_it_started_and_how_it_was_trained(done: tuple[Plan, Store]) -> None:
    plan, store = done
    record = record_of(plan.cells[2], plan, store)
    assert record["spec"]["parent"]["method"] == "cam"
    assert record["spec"]["parent"]["params"]["epochs"] == 1
    assert [row["epoch"] for row in record["curves"]] == [1, 2]
    phases = store.need("fit", record["artefacts"]["fit"]).manifest["phases"]
    assert phases[0]["augment"]["resize"] == "scale"
    assert phases[0]["clip_norm"] == 1.0
    assert phases[1]["optimizer"] == "SGD"


def test_the_record_of_what_a_refiner_learned_to_refine_holds_its_losses(done: tuple[Plan, Store]) -> None:
    plan, store = done
    refined = record_of(plan.cells[1], plan, store)
    assert [(row["epoch"], set(row)) for row in curves_of(refined, "fit_refiner") or []] == [
        (1, {"epoch", "lr", "foreground"}),
        (2, {"epoch", "lr", "foreground"}),
    ]
    assert curves_of(refined, "fit") == refined["curves"]
    assert curves_of(record_of(plan.cells[0], plan, store), "fit_refiner") is None


def test_settings_of_a_parent_and_of_a_refiner_are_set_by_their_names(tmp_path: Path) -> None:
    plan = planned(tmp_path, methods="child", refine="learner", set=SMALL | {"cam.epochs": 3, "learner.epochs": 5})
    by_stage = {node.stage: node for node in plan.nodes.values()}
    assert by_stage["fit_refiner"].config.refiner["params"]["epochs"] == 5
    assert by_stage["fit"].config.parent.params["epochs"] == 3
    assert plan.cells[0].cell.spec.refiner == {"epochs": 5}


def test_a_setting_of_the_walk_refines_again_and_does_not_train_again(tmp_path: Path) -> None:
    def keys(**settings: Any) -> tuple[str, str]:
        own = {"*.image_size": 64, "cam.epochs": 1} | {f"irn.{name}": value for name, value in settings.items()}
        (cell,) = planned(tmp_path, methods="cam", refine="irn", set=own).cells
        return cell.artefacts["fit_refiner"], cell.artefacts["splits"]["val"]["mask"][0]

    trained, refined = keys()
    for walk in ({"beta": 5.0}, {"squarings": 4}, {"walk_radius": 3}, {"align_corners": True}):
        assert keys(**walk)[0] == trained
        assert keys(**walk)[1] != refined
    assert keys(radius=8)[0] != trained


def test_a_refiner_learns_from_masks_of_the_scores_that_it_refines_and_sees_no_ground_truth(
    done: tuple[Plan, Store],
) -> None:
    plan, _ = done
    learned = [node for node in plan.nodes.values() if node.stage == "fit_refiner"]
    assert [str(plan.nodes[key].config.rules.background) for key in list(learned[0].parents.values())[1:]] == [
        "fixed:0.6",
        "fixed:0.2",
    ]
    for node in learned:
        assert not plan.locations_of(node).roots
        masks = [plan.nodes[key] for role, key in node.parents.items() if role.startswith("pseudo/")]
        assert all(not plan.locations_of(mask).roots and mask.config.rules.gating.kind == "gt" for mask in masks)
    refined = [node for node in plan.nodes.values() if node.parents.get("fit_refiner") == learned[0].key]
    assert {node.stage for node in refined} == {"mask"}
    assert plan.cells[1].artefacts["fit_refiner"] == learned[0].key


@pytest.mark.parametrize("stop", [1, 2])
def test_a_child_that_is_cut_off_goes_on_to_the_same_weights(
    done: tuple[Plan, Store], tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random crops, two phases with their own batches, a buffer that is filled between them, a parent."""
    plan, store = done
    node = next(node for node in plan.nodes.values() if node.stage == "fit" and node.config.method == "child")
    split = store.need("labels", node.parents["labels"]).json("labels.json")
    images = [Path(path) for path in plan.locations_of(node).image_paths]
    labels = torch.tensor(split["labels"], dtype=torch.float32)

    def fit(folder: Path) -> dict[str, torch.Tensor]:
        method = Child(ChildParams(epochs=3, batch_size=4, image_size=64))
        cam = REGISTRY.load("method", "cam")
        parent = build_model(cam(cam.Params()), node.config.timm, Weights("random"), 5, 0)
        model = build_model(method, node.config.timm, Weights("random"), 5, 0, parent)
        session = Session(0, "cpu", "fp32", folder, lambda done, total, notes: None)
        method.fit(model, training.TrainingData(split["ids"], labels, images), session)
        return model.state_dict()

    whole, real = fit(tmp_path / "whole"), training._epoch

    def cut(method, model, optimizer, at, *rest) -> None:  # type: ignore[no-untyped-def]
        if at.start.epoch >= stop:
            raise KeyboardInterrupt
        real(method, model, optimizer, at, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", cut)
        patch.setattr(training, "_MAX_CHECKPOINT_SHARE", 1e9)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut")
    resumed = fit(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_a_done_cell_no_longer_has_is_made_again_where_it_is_asked_for(done: tuple[Plan, Store]) -> None:
    plan, store = done
    alone = plan_cells([plan.cells[0].cell], Inputs(REGISTRY, store.root, None))
    store.write_record(record_of(plan.cells[0], plan, store))
    fit = alone.cells[0].artefacts["fit"]
    assert alone.missing(store, ["fit"]) == []
    place = store.root / "artefacts" / "fit" / fit
    place.rename(store.root / "moved")
    try:
        assert alone.missing(store) == []
        assert alone.missing(store, ["evaluate"]) == []
        assert alone.missing(store, ["fit"]) == [fit]
    finally:
        (store.root / "moved").rename(place)
