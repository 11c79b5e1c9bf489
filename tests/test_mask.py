from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.crf import CRFParams, dense_crf
from harness.data.base import open_mask, open_rgb, save_mask
from harness.inputs import Inputs
from harness.pseudomask import probabilities
from harness.registry import Registry
from harness.results.store import Store
from harness.run.plan import plan_cells
from harness.spec import Grid, expand
from harness.stages import SHARD
from harness.stages.score import read_scores
from tests.stores import run_stages


def test_a_later_shard_is_refined_by_its_own_images(tmp_path: Path) -> None:
    """Each image has its edge elsewhere, and the CRF moves the border of the object to it."""
    root, columns = tmp_path / "data", np.arange(16)
    ids = [f"{number:03d}" for number in range(SHARD + 2)]
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, image_id in enumerate(ids):
        grey = np.broadcast_to((255 * (columns < 3 + number % 10)).astype(np.uint8), (16, 16))
        Image.fromarray(grey).save(root / "images" / f"{image_id}.png")
        save_mask(root / "masks" / f"{image_id}.png", np.broadcast_to(columns < 8, (16, 16)).astype(np.uint8))
    (root / "labels.csv").write_text("id,cat\n" + "".join(f"{image_id},1\n" for image_id in ids))
    settings = {"sanity-oracle.stride": 8, "sanity-oracle.inference_size": 16}
    grid = Grid(methods=("sanity-oracle",), datasets=("folder",), refine=("crf:vitpcm",), set=settings)
    store = Store(tmp_path / "results", create=True)
    plan = plan_cells(expand([grid], Registry()), Inputs(Registry(), store.root, root))
    assert run_stages(plan)[1].status == "done"
    node = next(node for node in plan.nodes.values() if node.stage == "mask" and node.config.shard == 1)
    made = store.need("mask", node.key)
    rules, params = node.config.rules, CRFParams.model_validate(node.config.refine["params"])
    maps = {image_id: value for image_id, value, _ in read_scores(store.need("score", node.parents["score"]), 1)}
    assert sorted(maps) == sorted(path.stem for path in made.path.glob("*.png")) == ids[SHARD:]
    for image_id, value in maps.items():
        scored = probabilities(value, np.array([1]), (16, 16), rules, "probability")
        own = (scored / scored.sum(0)).numpy()
        expected = dense_crf(open_rgb(root / "images" / f"{image_id}.png"), own, params).argmax(0)
        another = dense_crf(open_rgb(root / "images" / f"{ids[0]}.png"), own, params).argmax(0)
        assert np.array_equal(open_mask(made.path / f"{image_id}.png"), expected)
        assert not np.array_equal(expected, another)
