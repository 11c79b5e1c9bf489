"""Masks of user images from a trained cell, made as the cell's own masks were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.data.base import open_rgb, voc_palette
from harness.effective import effective_gating
from harness.errors import UserError, closest
from harness.method import Method
from harness.precision import autocast, set_precision
from harness.protocol import Protocol
from harness.pseudomask import open_classes
from harness.registry import Registry
from harness.report.figures import new_figure, save
from harness.results.record import Record
from harness.results.store import Store
from harness.rules import Rule, Rules
from harness.spec import refiner_config
from harness.stages.fit import load_model
from harness.stages.fit_refiner import load_refiner_model
from harness.stages.mask import best_class, load_refiner
from harness.stages.score import Passes, merged_scores

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def images_in(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the images of a folder, in order, and how many other files there are, by suffix.

    Raises
    ------
    UserError
        If there is none, or two would have the same mask.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or path.name for path in files if path not in paths)
    if not paths:
        raise UserError(f"no images in {folder}: looked for {', '.join(SUFFIXES)}")
    first: dict[str, Path] = {}
    for path in paths:
        if (other := first.setdefault(path.stem, path)) != path:
            raise UserError(f"{other.name} and {path.name} would have the same mask, {path.stem}.png: rename one")
    return paths, others


class Predictor:
    """The model and the rules of a cell.

    Parameters
    ----------
    record : dict
        Of a cell that is done.
    store : Store
        Holds its trained model.
    registry : Registry
    classes : sequence of str
        What the photos may show, by name; empty lets the model say it, where it can, and else admits every class.
    device : {"cpu", "cuda"}

    Attributes
    ----------
    names : list of str
        Class names by mask index; unused indices are empty.
    gating : str
        Which classes may appear, in words.

    Raises
    ------
    UserError
        If the cell has no trained model, or there is no such class.
    """

    def __init__(
        self, record: Record, store: Store, registry: Registry, classes: Sequence[str] = (), device: str = "cpu"
    ) -> None:
        if record["status"] != "done" or record["artefacts"]["fit"] is None:
            raise UserError(f"{record['title']} ({record['key'][:8]}) has no trained model")
        if "masks" in record.get("supervision", ()):
            raise UserError(f"{record['title']} makes its masks of the ground truth, and your images have none")
        self.spec, self.names, self.device = record["spec"], record["classes"], device
        protocol = Protocol.model_validate(self.spec["protocol"])
        method_class: type[Method] = registry.load("method", self.spec["method"])
        self.method = method_class(method_class.Params.model_validate(self.spec["params"]))
        stage = "select" if "select" in record["artefacts"] else "fit"
        self.model = load_model(registry, self.method, store.need(stage, record["artefacts"][stage])).to(device)
        self.refiner = load_refiner(refiner_config(registry, protocol.refine, self.spec.get("refiner")), registry)
        if self.refiner and self.refiner.trained:
            learned = store.need("fit_refiner", record["artefacts"]["fit_refiner"])
            self.refiner.model = load_refiner_model(self.refiner, learned).to(device)
        self.protocol = protocol
        set_precision(protocol.precision)
        self.labels = np.zeros(len(self.names), int)
        for name in classes:
            if name not in self.names[1:]:
                raise UserError(f"this cell knows no class '{name}': {closest(name, self.names[1:])}")
            self.labels[self.names.index(name)] = 1
        held_out = protocol.class_gating.held_out
        wanted = Rule("predicted", 0.5) if held_out.kind == "gt" else held_out
        rule = Rule("gt") if classes else effective_gating(self.method, wanted)
        self.gating = f"given: {', '.join(classes)}" if classes else str(rule)
        background = Rule.parse(record["applied"]["background"])
        if background.kind == "swept_on":
            background = Rule("fixed", record["metrics"][background.value]["best_threshold"])
        self.rules = Rules(
            rule, protocol.normalisation, background, protocol.align_corners, upsampling=protocol.upsampling
        )

    def __call__(self, path: Path) -> np.ndarray:
        """Return the (H, W) uint8 mask of a photo: positions in `names`."""
        image = open_rgb(path)
        protocol = self.protocol
        size = protocol.size or self.spec["params"]["inference_size"]
        given = None
        if self.method.conditions_on_labels and self.labels.any():
            given = torch.tensor([[1, *self.labels[1:]]], dtype=torch.float32, device=self.device)
        with (
            torch.set_grad_enabled(self.method.needs_grad),
            autocast(self.device, protocol.precision),
        ):
            maps, presence = merged_scores(
                self.method,
                self.model,
                [torch.from_numpy(image.copy())],
                given,
                Passes(size, protocol.scales, protocol.flip, protocol.merge),
                self.device,
            )
        present = None if presence is None else presence[0].cpu().numpy()
        classes = open_classes(self.rules, self.labels, present)
        scores, size = maps[0].cpu().numpy(), image.shape[:2]
        best = best_class(scores, classes, size, self.rules, self.method.output, self.refiner, path, image_id=path.stem)
        return np.array([0, *classes], np.uint8)[best]


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image with its mask's colours over it, (H, W, 3) uint8; background stays as it is."""
    colours = np.array(voc_palette(), np.uint8).reshape(-1, 3)[mask]
    return np.where(mask[..., None] > 0, (0.45 * image + 0.55 * colours).astype(np.uint8), image)


def contact_sheet(shown: list[tuple[str, np.ndarray, list[str]]], path: Path, columns: int = 6) -> None:
    """Draw overlays in a grid, each titled with its name and the classes found in it."""
    rows = -(-len(shown) // columns)
    figure = new_figure(2.2 * min(columns, len(shown)), 2.3 * rows)
    axes = list(figure.subplots(rows, min(columns, len(shown)), squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image, found) in zip(axes, shown, strict=False):
        axis.imshow(image)
        axis.set_title(f"{name}\n{', '.join(found) or 'nothing found'}", fontsize=7, parse_math=False)
    save(figure, path)


def thumbnail(image: np.ndarray, side: int = 320) -> np.ndarray:
    """Return an image no larger than `side` pixels either way."""
    small = Image.fromarray(image)
    small.thumbnail((side, side))
    return np.asarray(small)
