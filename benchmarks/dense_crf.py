"""Dense CRF as the harness schedules it, on all cores and over open classes, against one process over all classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import forget, nodes_of, plan, run_stage, schedule, start_ray, store_of
from benchmarks.row import Aim, Row, Setting, Values, rate
from harness.crf import CRFParams
from harness.data.base import open_mask, open_rgb, save_mask
from harness.data.voc import VOC_CLASSES
from harness.pseudomask import open_classes, probabilities
from harness.run.plan import Plan
from harness.stages import Node
from harness.stages.score import read_scores


def rows(at: Setting) -> list[Row]:
    """Return the row: two splits, so two stages at once; score maps to stored masks."""
    images = at.pick(6, 1)
    planned = plan(at, "crf", methods="sanity-oracle", limit=images, protocols="vitpcm", refine="crf:vitpcm",
                   set={"sanity-oracle.stride": 16})  # fmt: skip
    masks = nodes_of(planned, "mask")
    for node in planned.nodes.values():
        run_stage(planned, node, at)
    start_ray(at)
    count = images * len(masks)

    def scheduled() -> Any:
        forget(planned, *masks)
        value, _ = rate(count, lambda: schedule(planned, at))
        return value, [path for node in masks for path in sorted(_folder(planned, node).glob("*.png"))]

    def serial(channels: str) -> Any:
        out = at.folder / channels
        out.mkdir(exist_ok=True)
        return rate(count, lambda: [path for node in masks for path in _serial(planned, node, channels, out)])

    def facts() -> dict[str, str]:
        all_open = [len(classes) + 1 for node in masks for _, _, classes, _, _ in _scored(planned, node)]
        by_all, by_open = (serial(channels)[1] for channels in ("all", "open"))
        changed = [(open_mask(a) != open_mask(b)).ravel() for a, b in zip(by_all, by_open, strict=True)]
        return {
            "pictures": str(count),
            "channels of an image": f"{np.mean(all_open):.1f} of {len(VOC_CLASSES)}",
            "share of labels that closed classes change": f"{np.mean(np.concatenate(changed)):.4%}",
            "at once": f"{len(masks)} stages, one core each",
        }

    return [
        Row(
            name="dense-crf",
            what="dense CRF, 10 iterations, all cores, open classes",
            against=f"serial pydensecrf over all {len(VOC_CLASSES)} channels",
            unit="images/s",
            sides={
                "harness": scheduled,
                "serial, all channels": lambda: serial("all"),
                "serial, open channels": lambda: serial("open"),
            },
            ratio=over_all_channels,
            aim=Aim(">=", 3),
            agree=agree,
            facts=facts,
            repeats=3,
            opponents=("pydensecrf2",),
        )
    ]


def over_all_channels(values: Values) -> float:
    """Return how many times faster the harness is than the loop over all channels."""
    return values["harness"] / values["serial, all channels"]


def agree(made: Any) -> str:
    """Return what is equal: the masks of the serial loop over the same channels, and nearly those over all."""
    ours, over_all, over_open = ([open_mask(path) for path in paths] for paths in made.values())
    assert all(np.array_equal(a, b) for a, b in zip(ours, over_open, strict=True))
    changed = np.mean(np.concatenate([(a != b).ravel() for a, b in zip(ours, over_all, strict=True)]))
    assert changed < 0.01, changed
    return f"masks of the serial loop over open channels; {changed:.4%} of labels differ from all channels"


def _folder(planned: Plan, node: Node) -> Path:
    return store_of(planned).need(node.stage, node.key).path


def _scored(planned: Plan, node: Node) -> Any:
    """Yield id, score map, open classes, size and file of each image of a stage's split."""
    store = store_of(planned)
    scores = store.need("score", node.parents["score"])
    split = store.need("labels", node.parents["labels"]).json("labels.json")
    rules = node.config.rules
    images = planned.locations_of(node).image_paths
    for (image_id, maps, presence), labels, size, image in zip(
        read_scores(scores, 0), np.array(split["labels"]), split["sizes"], images, strict=True
    ):
        yield image_id, maps, open_classes(rules, labels, presence), tuple(size), Path(image)


def _serial(planned: Plan, node: Node, channels: str, out: Path) -> list[Path]:
    """Refine a split in one process, as repositories do it; return the masks' files."""
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    params = CRFParams.model_validate(node.config.refine["params"])
    rules = replace(node.config.rules, align_corners=params.align_corners)
    made = []
    for image_id, maps, classes, (height, width), image in _scored(planned, node):
        open_ones = np.array([0, *classes])
        scored = probabilities(maps, classes, (height, width), rules, "probability").numpy()
        names = np.arange(len(VOC_CLASSES)) if channels == "all" else open_ones
        whole = np.zeros((len(names), height, width), np.float32)
        whole[np.searchsorted(names, open_ones)] = scored / scored.sum(0).clip(1e-7)
        field = densecrf.DenseCRF2D(width, height, len(names))
        field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(whole, clip=params.clip)))
        field.addPairwiseGaussian(sxy=params.gaussian_xy, compat=params.gaussian_weight)
        field.addPairwiseBilateral(sxy=params.bilateral_xy, srgb=params.bilateral_rgb,
                                   rgbim=np.array(open_rgb(image)), compat=params.bilateral_weight)  # fmt: skip
        best = np.array(field.inference(params.iterations)).reshape(whole.shape).argmax(0)
        made.append(out / f"{image_id}.png")
        save_mask(made[-1], names[best].astype(np.uint8))
    return made
