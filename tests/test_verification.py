"""Verification through spec, plan, stages and tables: what is trained on what, and what stays as it was without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cell import Cell, RunSpec
from harness.data.base import open_mask, save_mask
from harness.data.toy import Toy
from harness.errors import UserError
from harness.inputs import Inputs
from harness.registry import Registry
from harness.report.dataframe import frame
from harness.report.published import published
from harness.report.tables import comparison
from harness.report.verdicts import verdicts
from harness.results.store import Store
from harness.run.plan import Plan, cell_key, plan_cells
from harness.spec import Grid, expand, experiment
from harness.stages import SHARD
from tests.conftest import Run

REGISTRY = Registry()
REFERENCE = Path(__file__).parent.parent / "results" / "reference"


def cell(**grid: Any) -> Cell:
    (found,) = expand([Grid(**{"methods": "cam", "backbones": "timm:test_vit", "limit": 4} | grid)], REGISTRY)
    return found


def planned(folder: Path, **grid: Any) -> Plan:
    return plan_cells([cell(**grid)], Inputs(REGISTRY, folder, None))


@pytest.mark.parametrize("path", sorted((REFERENCE / "demo" / "records").glob("*.json")), ids=lambda path: path.stem)
def test_records_from_before_it_are_read_and_keep_their_keys(path: Path) -> None:
    record = json.loads(path.read_text("utf-8"))
    spec = RunSpec.model_validate(record["spec"])
    assert spec.model_dump(mode="json") == record["spec"]
    assert cell_key(spec, record["artefacts"]) == record["key"]


def test_a_plain_verifier_takes_the_default_recipe_and_every_setting_can_be_changed() -> None:
    assert cell(verify="deeplabv2").spec.protocol.verify == "deeplabv2:kazuto-imagenet"
    changed = {"deeplabv2.lr": 0.5, "deeplabv2.multipliers.head_bias": 3, "protocol.verify_init": "file"}
    spec = cell(verify="deeplabv2:toy", set=changed).spec
    assert spec.verifier is not None
    assert (spec.verifier["lr"], spec.verifier["multipliers"]["head_bias"], spec.verifier["init"]) == (0.5, 3, "file")
    assert spec.verifier["multipliers"]["head_weight"] == 1
    assert spec.protocol.mask_split == "train"


def test_without_a_verifier_nothing_is_said_of_one() -> None:
    changed = {"protocol.mask_split": "val", "protocol.verify_init": "random", "deeplabv2.lr": 0.5}
    both = expand([Grid(methods="cam", verify="none,deeplabv2:toy", set=changed)], REGISTRY)
    plain, verified = both
    without = expand([Grid(methods="cam")], REGISTRY)[0]
    assert plain.spec.model_dump(mode="json") == without.spec.model_dump(mode="json")
    assert set(plain.origins) == set(without.origins)
    assert set(verified.origins) - set(plain.origins) == set(changed)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"verify": "deeplabv2:toi"}, "unknown deeplab 'toi': did you mean 'toy'"),
        ({"verify": "deeplabv3"}, "expected none, deeplabv2 or deeplabv2:RECIPE"),
        ({"verify": "deeplabv2:toy", "set": {"deeplabv2.lrr": 1}}, "lrr"),
        ({"verify": "deeplabv2:toy", "set": {"deeplabv2.refine": "crf:vitpc"}}, "did you mean 'vitpcm'"),
        ({"verify": "deeplabv2:toy", "set": {"protocol.verify_init": "imagnet"}}, "verify_init"),
    ],
)
def test_a_wrong_verifier_is_one_clear_error(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cell(**grid)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"verify": "deeplabv2"}, "starts from imagenet weights of resnet101: .*\n--verify-weights FILE"),
        ({"verify": "deeplabv2:toy", "verify_weights": "w.pth"}, "--verify-weights: this verifier starts at random"),
    ],
)
def test_start_weights_that_are_not_there_end_the_plan(
    toy: Path, tmp_path: Path, grid: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planned(tmp_path, **grid)


def test_it_adds_stages_and_changes_none_and_none_of_them_sees_ground_truth(toy: Path, tmp_path: Path) -> None:
    plain, plan = planned(tmp_path), planned(tmp_path, verify="deeplabv2:toy")
    added = [node for key, node in plan.nodes.items() if key not in plain.nodes]
    assert plain.nodes.keys() < plan.nodes.keys()
    assert sorted(node.stage for node in added) == ["evaluate", "evaluate", "segment", "segment", "verify"]
    for node in added:
        assert bool(plan.locations_of(node).roots) == (node.stage == "evaluate")
    (verify,) = [node for node in added if node.stage == "verify"]
    assert set(verify.parents) == {"labels", "mask/0"}


def test_a_recipe_s_test_is_no_reason_to_train_again_and_its_weights_are(toy: Path, tmp_path: Path) -> None:
    def keys(**grid: Any) -> dict[str, str]:
        plan = planned(tmp_path, verify="deeplabv2:toy", **grid)
        return {node.stage: node.key for node in plan.nodes.values() if node.stage in ("verify", "segment")}

    weights = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for number, path in enumerate(weights):
        path.write_bytes(bytes([number]))
    base, tested, longer = keys(), keys(set={"deeplabv2.test_flip": True}), keys(set={"deeplabv2.iterations": 5})
    assert tested["verify"] == base["verify"]
    assert tested["segment"] != base["segment"]
    assert longer["verify"] != base["verify"]
    file = {"set": {"protocol.verify_init": "file"}}
    one, other = (keys(verify_weights=str(path), **file) for path in weights)
    weights[0].rename(tmp_path / "c.pth")
    assert keys(verify_weights=str(tmp_path / "c.pth"), **file) == one
    assert len({one["verify"], other["verify"], base["verify"]}) == 3


def test_every_shard_of_the_masks_is_read(toy: Path, tmp_path: Path) -> None:
    class Many(Toy):
        def ids(self, split: str) -> list[str]:
            return [f"{split}_{number:04d}" for number in range(40)]

    inputs = Inputs(REGISTRY, tmp_path, None)
    inputs._datasets["toy"] = Many(toy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.run.opened.SHARD", 16)
        plan = plan_cells([cell(verify="deeplabv2:toy", limit=None)], inputs)
    (verify,) = [node for node in plan.nodes.values() if node.stage == "verify"]
    assert [role for role in verify.parents if role != "labels"] == ["mask/0", "mask/1", "mask/2"]
    assert SHARD == 256


ON_MASKS = ["--set", "protocol.fit_split=train", "--set", "protocol.label_source=masks"]


def blind_cell(gating: str) -> Cell:
    changed = {"protocol.fit_split": "train", "protocol.label_source": "masks", "protocol.eval_splits": "test",
               "protocol.class_gating.held_out": gating}  # fmt: skip
    return cell(methods="sanity-background", datasets="voc12", limit=None, set=changed)


def test_masks_of_a_blind_split_are_made_and_not_scored(voc: Path, tmp_path: Path) -> None:
    plan = plan_cells([blind_cell("none")], Inputs(REGISTRY, tmp_path, voc))
    assert set(plan.cells[0].artefacts["splits"]["test"]) == {"labels", "score", "mask"}
    with pytest.raises(UserError, match="test has no public image labels to gate classes by"):
        plan_cells([blind_cell("gt")], Inputs(REGISTRY, tmp_path, voc))


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in VOC's layout, a fifth of each mask not labelled, and one without a mask."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, ids in (("train", ["a", "b"]), ("val", ["c", "d"]), ("test", ["e"])):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids))
        for name in ids:
            mask = np.zeros((40, 50), np.uint8)
            mask[5:20, 5:30], mask[25:35, 10:20], mask[:, 40:] = 3, 15, 255
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            if split != "test":
                save_mask(root / "SegmentationClass" / f"{name}.png", mask)
    return root


@pytest.mark.slow
def test_the_upper_bound_is_the_recipe_on_the_ground_truth_itself(here: Run, voc: Path, tmp_path: Path) -> None:
    settings = {"iterations": 3, "batch_size": 2, "crop": 48}
    words = [word for name, value in settings.items() for word in ("--set", f"deeplabv2.{name}={value}")]
    split = [*ON_MASKS, "--set", "protocol.eval_splits=train,val,test"]
    found = here(
        "run", "--methods", "sanity-oracle", "--dataset", "voc12", "--root", str(voc), "--verify", "deeplabv2:toy",
        *words, *split, "--threads", "1", "--json",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    (record,) = json.loads(found.stdout)
    store = Store(tmp_path / "results")
    for split_name in ("train", "val"):
        (key,) = record["artefacts"]["splits"][split_name]["mask"]
        for path in store.need("mask", key).path.glob("*.png"):
            np.testing.assert_array_equal(open_mask(path), open_mask(voc / "SegmentationClass" / path.name))
    verifier = record["verifier"]
    assert verifier["ignored"] == pytest.approx(0.2)
    assert (verifier["trained_on"], verifier["mask_split"], verifier["init"]) == (2, "train", "random")
    assert verifier["pipeline"] == verifier["parameters"] > 100_000
    assert set(verifier["packages"]) == {"onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation"}
    assert set(record["metrics"]) == set(record["verification"]) == {"train", "val"}
    blind = record["artefacts"]["splits"]["test"]
    assert set(blind) == {"labels", "segment"}
    assert store.need("segment", blind["segment"][0]).file("e.png")
    allowed = {(use["what"], use["split"], use["for"]): use["allowed"] for use in record["ground_truth"]}
    assert allowed["pixels", "train", "the verifier's training"] is False
    curves = store.need("verify", record["artefacts"]["verify"]).json("curves.json")
    assert [point["iteration"] for point in curves] == [1, 2, 3]
    assert {"loss_1", "loss_0.75", "loss_0.5", "loss_max", "lr"} <= set(curves[0])
    (table,) = comparison(frame(store.records()))
    heading = next(column for column in table.columns if column.startswith("val deeplabv2:toy"))
    assert table.rows[0][table.columns.index(heading)].startswith(f"{100 * record['verification']['val']['miou']:.1f}")
    notes = "\n".join(table.notes)
    assert f"with verifier {verifier['pipeline'] / 1e6:.2f} M" in notes
    assert "deeplabv2:toy: from random weights, trained on the masks of train" in notes
    assert "20.0 % of the pixels that train it are ignored (255)" in notes
    assert "ground truth used: pixels of train, for the verifier's training" in notes
    shown = here("show", record["key"][:8], "--reproduce").stdout
    assert "--verify deeplabv2:toy" in shown
    assert "--set deeplabv2.crop=48" in shown


def verified(miou: float, **changes: Any) -> dict[str, Any]:
    """A record of the cell that Table B prints, with some mIoU of its verifier on val."""
    made = json.loads(next((REFERENCE / "demo" / "records").glob("*.json")).read_text())
    spec = expand(experiment(REGISTRY, "tableB").grids, REGISTRY)[0].spec.model_dump(mode="json")
    metrics = made["metrics"]["val"]
    verifier = {"init": "imagenet", "sha256": "0", "file": "w", "mask_split": "train_aug", "ignored": 0, "pipeline": 9}
    return made | {
        "key": f"{miou}{changes}", "status": "done", "spec": spec, "origins": {}, "metrics": {"val": metrics},
        "applied": {"background": "model", "gating": {"train_aug": "gt", "val": "gt"}}, "pictures": {"val": 1449},
        "weights": {"source": "hub", "sha256": "0", "file": "w"}, "verifier": verifier | changes,
        "verification": {"val": metrics | {"miou": miou}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "outcome", "differs"),
    [
        (verified(0.703), "match", []),
        (verified(0.65), "off", []),
        (verified(0.703, init="coco"), "not comparable", ["verify_init imagenet there, coco here"]),
        (verified(0.703, mask_split="train"), "not comparable", ["mask_split train_aug there, train here"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_published_verification_is_compared_with_the_verifier_s_score(
    tmp_path: Path, record: dict[str, Any], outcome: str, differs: list[str]
) -> None:
    score = next(
        s for s in published(REGISTRY, "vit-pcm") if s.table.name == "B" and s.method == "vitpcm" and s.split == "val"
    )
    (verdict,) = verdicts([score], frame([record]), REGISTRY, Store(tmp_path, create=True))
    assert (verdict.outcome, verdict.differs) == (outcome, differs)


def test_cells_that_share_their_masks_count_once() -> None:
    plain = verified(0.5)
    other = verified(0.6, init="coco")
    for record in (plain, other):
        record["artefacts"] = {"fit": None, "splits": {"val": {"evaluate": ["same"]}}}
    (table,) = comparison(frame([plain, other]))
    scores = dict(zip(table.columns, table.rows[0], strict=True))
    refined = next(column for column in table.columns if column == "val +crf:vitpcm")
    assert "±" not in scores[refined]
    assert len([column for column in table.columns if "deeplabv2:johnnylu-imagenet" in column]) == 1
