"""A plugin under examination, and what its checks need: small models, toy images, a training. Made when asked for."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from harness.backbones import Backbone, Weights, build_backbone
from harness.cell import Cell
from harness.check.watch import Deeds, watched
from harness.data.base import Dataset, open_rgb
from harness.data.index import index_split
from harness.images import squash
from harness.inputs import Inputs, open_dataset
from harness.loader import TrainingData
from harness.method import Method
from harness.phases import Batch, Step
from harness.registry import Entry, Registry
from harness.results.record import Record
from harness.results.store import Store
from harness.run.plan import plan_cells
from harness.run.record import record_of
from harness.run.worker import run_node
from harness.spec import Grid, expand
from harness.stages import method_of
from harness.stages.fit import build_model, new_backbone
from harness.stages.labels import label_matrix
from harness.training import Session

BACKBONES = {"vit": "test_vit", "cnn": "test_resnet"}  # timm's own, of 0.3 million parameters
SIDE = 64
TINY = {"*.image_size": SIDE, "*.inference_size": SIDE, "*.epochs": 2, "*.batch_size": 4}
IMAGES = 8
_MIDDLE = Step(1, 2, 2, 4)
Scored = tuple[Tensor, Tensor | None]  # maps and presence


@dataclass
class Case:
    """A plugin under examination; a method, on backbones of one family.

    Attributes
    ----------
    registry : Registry
    entry : Entry
    import_effects : list of str
        The shared state that importing it has changed.
    settings : mapping
        Of the caller, by `METHOD.KEY`.
    root : Path or None
        The folder of a dataset that needs one.
    family : str
        Empty for a method that takes no backbone, and for other plugins.
    """

    registry: Registry
    entry: Entry
    import_effects: list[str]
    settings: Mapping[str, Any]
    root: Path | None
    family: str = ""

    @cached_property
    def plugin(self) -> Any:
        """The class."""
        return self.registry.load(self.entry.kind, self.entry.name)

    def place(self) -> Path:
        """Return a new empty folder."""
        return Path(tempfile.mkdtemp(dir=_scratch()))

    @cached_property
    def toy(self) -> Dataset:
        """The toy dataset."""
        return open_dataset(self.registry.load("dataset", "toy"), None)

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset under examination, opened."""
        return self.open()

    def open(self) -> Dataset:
        """Open the dataset under examination in its folder, or draw it into one of its own."""
        dataset = self.plugin(self.root if self.plugin.needs_root else self.place() / "data")
        dataset.prepare()
        return dataset

    @property
    def rule(self) -> str:
        """How a protocol asks for the refiner under examination: by its name, or with its first preset."""
        presets = self.registry.names(self.entry.name)
        return f"{self.entry.name}:{presets[0]}" if presets else self.entry.name

    @cached_property
    def cell(self) -> Cell:
        """A small cell of the method."""
        chosen: dict[str, Any] = {}
        if self.family:
            start = self.place() / "start.safetensors"  # a file: some methods refuse a random start
            save_file(build_backbone(BACKBONES[self.family], Weights("random")).net.state_dict(), start)
            chosen = {"backbones": (f"timm:{BACKBONES[self.family]}",), "weights": str(start)}
        own = {f"{self.entry.name}.{key}": value for key, value in self.plugin.check_settings.items()}
        grid = Grid(methods=(self.entry.name,), limit=IMAGES, set=TINY | own | dict(self.settings), **chosen)
        return expand([grid], self.registry)[0]

    def method(self) -> Method:
        """Return a new method, with the settings of the small cell."""
        return self.plugin(self.plugin.Params.model_validate(self.cell.spec.params))

    def build(self, seed: int = 0) -> nn.Module:
        """Return a new model."""
        return self._build(self.method(), self.parent(seed), seed)

    def parent(self, seed: int = 0) -> nn.Module | None:
        """Return a new model of the method that this one starts from; None for one that starts by itself."""

        def build(spec: dict[str, Any] | None) -> nn.Module | None:
            if spec is None:
                return None
            return self._build(method_of(self.registry, spec["method"], spec["params"]), build(spec["parent"]), seed)

        return build(self.cell.spec.parent)

    def _build(self, method: Method, parent: nn.Module | None, seed: int) -> nn.Module:
        identifier = BACKBONES.get(self.family, "")
        return build_model(method, identifier, Weights("random"), len(self.toy.classes), seed, parent)

    def backbone(self) -> Backbone | None:
        """Return a new backbone, as `build` is handed it; None for a method that needs none."""
        return new_backbone(self.method(), BACKBONES.get(self.family, ""), Weights("random"))

    @cached_property
    def data(self) -> TrainingData:
        """Toy images with their image labels."""
        index = index_split(self.toy, "train", label_source="masks", masks=True, limit=IMAGES)
        labels = label_matrix(index.images, list(range(len(self.toy.classes))), "always")
        paths = [self.toy.image_path(image_id) for image_id in index.ids]
        return TrainingData(index.ids, torch.from_numpy(labels).float(), paths)

    def fit(self, method: Method | None = None, folder: Path | None = None) -> tuple[nn.Module, Session]:
        """Train a new model, or go on with what stands in the folder."""
        model = self.build()
        session = Session(0, "cpu", "fp32", folder or self.place(), lambda done, total, notes: None)
        (method or self.method()).fit(model, self.data, session)
        return model, session

    @cached_property
    def _trained(self) -> nn.Module:
        return self.fit()[0]

    @property
    def fitted(self) -> nn.Module:
        """The trained model, as it is scored."""
        return self._trained.eval()

    def batch(self, count: int = 4) -> Batch:
        """Return a training batch."""
        return Batch(self.images(count), self.data.labels[:count].clone(), self.data.ids[:count])

    def step(self, method: Method, model: nn.Module, batch: Batch, step: Step = _MIDDLE) -> dict[str, Tensor]:
        """Return the losses of a training step, by default in the middle of a training of one phase."""
        return method.training_step(model.train(), batch, step)

    def images(self, count: int, sides: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
        """Return (count, 3, *sides) toy images."""
        paths = [self.toy.image_path(image_id) for image_id in self.data.ids[:count]]
        return torch.stack([squash(open_rgb(path), sides) for path in paths])

    def labels(self, count: int, sides: tuple[int, int] = (SIDE, SIDE)) -> list[Tensor | None]:
        """Return what `score` may be given as labels: nothing; image labels where declared; an oracle, the truth."""
        if "masks" in self.plugin.supervision:
            classes = len(self.toy.classes)
            truth = torch.randint(classes, (count, *sides), generator=torch.Generator().manual_seed(0))
            return [functional.one_hot(truth, classes).permute(0, 3, 1, 2).float()]
        return [None, self.data.labels[:count].clone()] if self.plugin.conditions_on_labels else [None]

    def score(self, method: Method, model: nn.Module, images: Tensor, labels: Tensor | None) -> Any:
        """Return what a method's `score` returns."""
        with torch.set_grad_enabled(method.needs_grad):
            return method.score(model, images, labels)

    def maps(self, images: Tensor, labels: Tensor | None, model: nn.Module | None = None) -> Scored:
        """Return score maps and presence of the trained model, or of another; from one seed, if they are drawn."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            scored = self.score(self.method(), model or self.fitted, images, labels)
        maps, presence = scored if isinstance(scored, tuple) else (scored, None)
        return maps.detach(), presence

    @cached_property
    def deeds(self) -> Deeds:
        """What the method does to files and hosts while it is built, trained and asked for scores."""
        training, here = self.place(), self.place()
        images = self.images(2)
        os.chdir(here)
        with watched() as deeds:
            method = self.method()
            model = self.fit(method, training)[0].eval()
            self.score(method, model, images, self.labels(2)[0])
        deeds.written = [path for path in deeds.written if not path.is_relative_to(training)]
        deeds.written += [path for path in here.rglob("*") if path not in deeds.written]  # by compiled code
        return deeds

    def record(self, cell: Cell, root: Path | None = None) -> Record:
        """Run a cell through its real stages, in this process; return its record.

        Raises
        ------
        RuntimeError
            If a stage fails, with its reason.
        """
        store = Store(self.place() / "results", create=True)
        plan = plan_cells([cell], Inputs(self.registry, store.root, root))
        for node in plan.nodes.values():
            outcome = run_node(node, plan.locations_of(node), "cpu", torch.get_num_threads())
            if outcome.status != "done":
                raise RuntimeError(f"the stage {node.stage} failed: {outcome.reason}")
        return record_of(plan.cells[0], plan, store)


@cache
def _scratch() -> str:
    """Return the folder of this process for what checks write; it goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="harness-check-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
