"""What an image's score maps take on disk, against dense float32, and that nothing of the score is lost by it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cells import method_of, nodes_of, plan, run_stage, store_of, the_stage
from benchmarks.row import Aim, Row, Setting, share_of_other
from harness.data.base import open_mask, open_rgb
from harness.data.voc import VOC_CLASSES
from harness.metrics import Confusions, confusion, finalise
from harness.pseudomask import open_classes, probabilities
from harness.registry import Registry
from harness.stages.fit import load_model
from harness.stages.score import Passes, batch_size, merged_scores

CLASSES = range(len(VOC_CLASSES))


def rows(at: Setting) -> list[Row]:
    """Return the row: ViT-PCM's maps of a short training, at the size that the paper scores at."""
    size, images = at.pick((960, 24), (160, 4))
    settings = {"image_size": 160, "inference_size": size, "batch_size": 4, "epochs": 3, "accumulate": 1,
                "warmup_epochs": 0, "unfreeze_blocks": "all", "lr": 1e-3}  # fmt: skip
    planned = plan(at, "kept", methods="vitpcm", backbones="timm:test_vit", limit=images, protocols="vitpcm",
                   set={f"vitpcm.{name}": value for name, value in settings.items()})  # fmt: skip
    evaluate = the_stage(planned, "evaluate", "val none")
    (score,) = [node for node in nodes_of(planned, "score") if node.label.endswith("val")]

    def kept() -> Any:
        made = run_stage(planned, evaluate, at)
        scores = store_of(planned).need("score", score.key)
        shards = sum(path.stat().st_size for path in scores.path.glob("*.safetensors"))
        return shards / images, _miou(Confusions.load(made.file("confusion.npy")))

    def dense() -> Any:
        sizes, matrices = [], []
        for file, truth, best in _dense(planned, score, evaluate, at):
            sizes.append(file.stat().st_size)
            matrices.append(confusion(truth, best, CLASSES))
        return sum(sizes) / images, _miou(Confusions.gather(matrices, len(CLASSES)))

    return [
        Row(
            name="kept-maps",
            what=f"kept score maps of vitpcm at {size}",
            against=f"dense float32 at image size, {len(CLASSES)} channels",
            unit="bytes an image",
            sides={"harness": kept, "dense float32": dense},
            ratio=share_of_other,
            aim=Aim("<=", 0.02),
            agree=partial(agree, within=at.pick(0.5e-4, 1e-3)),
            facts=lambda: {
                "floor: one byte a class and patch": f"{len(CLASSES) * (size // 16) ** 2} bytes",
                "pictures": str(images),
            },
            repeats=1,
            warm=False,
        )
    ]


def agree(made: Any, within: float) -> str:
    """Return what is equal: mIoU of masks made from either; of a few small images a pixel is a digit."""
    ours, theirs = made.values()
    assert abs(ours - theirs) < within, made
    return f"mIoU to 4 digits: {ours:.4f}, dense {theirs:.4f}"


def _miou(confusions: Confusions) -> float:
    return float(finalise(confusions)["miou"])


def _dense(planned: Any, score: Any, evaluate: Any, at: Setting) -> Any:
    """Write the maps of each image as repositories do; yield the file, the truth, and the mask that it gives."""
    store = store_of(planned)
    split = store.need("labels", score.parents["labels"]).json("labels.json")
    rules = planned.nodes[evaluate.parents["mask"]].config.rules
    method = method_of(planned)
    model = load_model(Registry(), method, store.need("fit", score.parents["fit"])).to(at.device)
    dataset = Registry().load("dataset", at.dataset)(at.root)
    paths, size = planned.locations_of(score).image_paths, score.config.size
    at_once = batch_size(size, at.device)
    for start in range(0, len(paths), at_once):
        images = [torch.from_numpy(open_rgb(Path(path)).copy()) for path in paths[start : start + at_once]]
        with torch.no_grad():
            scored, _ = merged_scores(method, model, images, None, Passes(size, [1.0], "none", "grid"), at.device)
        for number, maps in enumerate(scored.cpu().numpy(), start):
            classes = open_classes(rules, np.array(split["labels"][number]), None)
            whole = np.zeros((len(CLASSES), *split["sizes"][number]), np.float32)
            whole[[0, *classes]] = probabilities(maps, classes, tuple(split["sizes"][number]), rules, method.output)
            file = at.folder / f"dense-{number}.npy"
            np.save(file, whole)
            yield file, open_mask(dataset.mask_path(split["ids"][number])), np.load(file).argmax(0).astype(np.uint8)
