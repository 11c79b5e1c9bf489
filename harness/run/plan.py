"""From cells to a graph of stages: what must be computed, what is there already, and why the rest is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.data.base import Dataset
from harness.data.decoded import DecodedPictures, decoded_folder
from harness.data.index import Picture, SplitIndex, index_split
from harness.data.toy import cache_folder
from harness.deeplab.recipe import TIMM
from harness.errors import UserError
from harness.method import Method
from harness.registry import Registry
from harness.results.store import Store
from harness.run.graph import CellGraph
from harness.spec import Cell, RunSpec
from harness.stages import SHARD, Locations, Node
from harness.strict import digest

_SEE_GROUND_TRUTH = ("labels", "curve", "evaluate")

ScanProgress = Callable[[str, int, int], None]


@dataclass
class PlannedCell:
    """A cell with its stages.

    Attributes
    ----------
    cell : Cell
    key : str
    nodes : list of str
        Keys of all its stages, parents first.
    artefacts : dict
        Keys of its stages by place: `fit`, and under each split `labels`, `score`, `curve`, and a list by shard of
        `mask` and `evaluate`.
    about : dict
        What the record says beside the spec: timm id, hashes, the rules that came to be applied.
    """

    cell: Cell
    key: str
    nodes: list[str]
    artefacts: dict[str, Any]
    about: dict[str, Any]


@dataclass
class Plan:
    """Cells and the stages that they share.

    Attributes
    ----------
    cells : list of PlannedCell
    nodes : dict
        Every stage once, by key, parents before children.
    locations : Locations
    pictures : dict
        The picture files of each split, by the key of its labels.
    foreign : set of str
        Keys of the stages that run code of a plugin, given or installed: each gets a process of its own.
    contents : dict
        What the check pass found in them.
    notes : list of str
        What a person should know before it starts.
    """

    cells: list[PlannedCell] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    locations: Locations = field(default_factory=lambda: Locations("", {}))
    pictures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    contents: dict[str, tuple[Picture, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def locations_of(self, node: Node) -> Locations:
        """Return what a stage is told of this machine: a way to ground truth only if the stage is there to see it."""
        chooses = node.config.get("rule") == "val_pixels"
        may_see = chooses or node.stage in _SEE_GROUND_TRUTH or node.config.get("oracle") or "external" in node.config
        pictures = self.pictures.get(node.parents.get("labels", ""), ())
        if "shard" in node.config:
            pictures = pictures[node.config["shard"] * SHARD :][:SHARD]
        return replace(self.locations, roots=self.locations.roots if may_see else {}, pictures=pictures)

    def decode(self, keys: Iterable[str]) -> DecodedPictures:
        """Hand decoded pictures to some stages; they are returned, and to be written before these stages run."""
        nodes = [self.nodes[key] for key in keys]
        splits = dict.fromkeys(node.parents["labels"] for node in nodes if _opens_pictures(node))
        files = [found for split in splits for found in zip(self.pictures[split], self.contents[split], strict=True)]
        decoded = DecodedPictures(decoded_folder(Path(self.locations.store)), files)
        for split in splits:
            self.pictures[split] = tuple(str(decoded.place(picture)) for picture in self.contents[split])
        return decoded

    def missing(self, store: Store) -> list[str]:
        """Return the keys of the stages that unfinished cells still need, parents first."""
        needed: set[str] = set()
        for planned in self.cells:
            if planned.nodes and not is_done(store, planned):
                needed.update(planned.nodes)
        return [key for key, node in self.nodes.items() if key in needed and not store.artefact(node.stage, key)]


def cell_key(spec: RunSpec, made: Any) -> str:
    """Return the key of a cell, from its spec and the keys of its stages, or the reason why it has none."""
    keyed = spec.model_dump(mode="json")
    for name in ("summary", "source"):
        keyed["protocol"].pop(name)
    return digest([keyed, made])


def _opens_pictures(node: Node) -> bool:
    if node.stage == "mask":
        return node.config["refine"] is not None
    return node.stage in ("fit", "select", "score", "verify", "segment") and "external" not in node.config


def is_done(store: Store, planned: PlannedCell) -> bool:
    """Return whether a cell has its final record."""
    record = store.record(planned.key)
    return record is not None and record["status"] in ("done", "skipped")


class Planner:
    """Builds plans; opens each dataset, split and weight file once.

    Parameters
    ----------
    registry : Registry
    store : Path
        The results folder.
    root : Path or None
        The folder of datasets that need one.
    scan : callable
        Told (what, done, total) while pictures are checked.
    """

    def __init__(
        self, registry: Registry, store: Path, root: Path | None, scan: ScanProgress = lambda what, done, total: None
    ) -> None:
        self.registry = registry
        self.store = store
        self.root = root
        self.scan = scan
        self._datasets: dict[str, Dataset] = {}
        self._splits: dict[tuple[Any, ...], SplitIndex] = {}
        self._weights: dict[tuple[str, str], Any] = {}
        self._brought: dict[str, str] = {}

    def plan(self, cells: Iterable[Cell]) -> Plan:
        """Return the plan of some cells.

        Raises
        ------
        UserError
            For whatever would make a cell fail for sure: a missing folder, a broken picture, weights that do not exist.
        """
        plan = Plan()
        for cell in cells:
            plan.cells.append(self._cell(plan, cell))
        plan.locations = Locations(
            str(self.store.absolute()),
            {name: str(dataset.root.absolute()) for name, dataset in self._datasets.items()} | self._brought,
            {w.sha256: str(w.path.absolute()) for w in self._weights.values() if w.path},
            self.registry.plugins,
        )
        plan.notes = [self._datasets[name].note for name in self._datasets if self._datasets[name].note]
        return plan

    def _cell(self, plan: Plan, cell: Cell) -> PlannedCell:
        if cell.skip or cell.broken:
            return PlannedCell(cell, cell_key(cell.spec, cell.skip or cell.broken), [], {}, {})
        graph = CellGraph(self, plan, cell)
        artefacts = graph.artefacts()
        return PlannedCell(
            cell, cell_key(cell.spec, artefacts), list(dict.fromkeys(graph.keys)), artefacts, graph.about()
        )

    def dataset(self, name: str) -> Dataset:
        """Return an opened dataset."""
        if name not in self._datasets:
            dataset_class: type[Dataset] = self.registry.load("dataset", name)
            self._datasets[name] = open_dataset(dataset_class, self.root)
        return self._datasets[name]

    def split(self, dataset: Dataset, split: str, source: str, masks: bool, limit: int | None) -> SplitIndex:
        """Return a checked split."""
        key = (dataset.name, split, source, masks, limit)
        if key not in self._splits:
            self._splits[key] = index_split(
                dataset,
                split,
                label_source=source,
                masks=masks,
                limit=limit,
                cache=self.store / "cache" if self.store.exists() else None,
                progress=lambda done, total: self.scan(f"{dataset.name}/{split}", done, total),
            )
        return self._splits[key]

    def checkpoint(self, path: str) -> Any:
        """Return a trained model's file, by its hash."""
        from harness.backbones import resolve_weights

        key = ("", path)
        if key not in self._weights:
            self._weights[key] = resolve_weights(path, "")
        return self._weights[key]

    def verifier(self, recipe: dict[str, Any] | None, file: str) -> Any:
        """Return the start weights of a verifier, by their hash.

        Parameters
        ----------
        recipe : dict or None
            None for a cell without verification.
        file : str
            What the command names; empty for weights that are found by themselves.
        """
        from harness.backbones import Weights, resolve_weights

        if recipe is None:
            return Weights("none")
        backbone, init = recipe["backbone"], recipe["init"]
        if init == "random":
            if file:
                raise UserError("--verify-weights: this verifier starts at random; --set protocol.verify_init=file")
            return Weights("random")
        from_hub = init == "imagenet" and backbone.startswith(TIMM)
        if not file and not from_hub:
            from harness.deeplab.weights import PUBLIC  # mm-packages, which nobody else needs

            known = f": {PUBLIC[recipe['style']]}" if recipe["style"] and init != "file" else ""
            raise UserError(
                f"the verifier starts from {init} weights of {backbone}{known}\n"
                "--verify-weights FILE brings them; --set protocol.verify_init=random does without"
            )
        key = (backbone, file or "hub")
        if key not in self._weights:
            self._weights[key] = resolve_weights(file or "hub", backbone.removeprefix(TIMM))
        return self._weights[key]

    def brought(self, cell: Cell, method: Method, class_ids: list[int], indices: list[SplitIndex]) -> str:
        """Check the folder of an external method against the pictures of some splits; return a key of its content."""
        from harness.external import check_folder

        assert cell.folder
        content = check_folder(
            cell.folder,
            method,
            len(class_ids),
            len(self.dataset(cell.spec.dataset).classes),
            indices,
            lambda done, total: self.scan(str(cell.folder), done, total),
        )
        self._brought[content] = str(cell.folder)
        return content

    def backbone(self, method: Method, backbone: str, choice: str) -> tuple[str, Any]:
        """Return timm id and start weights of a backbone, for a method that needs one."""
        from harness.backbones import Weights, resolve_weights, timm_id

        if not method.families:
            return "", Weights("none")
        key = (timm_id(backbone, self.registry), choice)
        if key not in self._weights:
            self._weights[key] = resolve_weights(choice, key[0])
        return key[0], self._weights[key]


def open_dataset(dataset_class: type[Dataset], root: Path | None) -> Dataset:
    """Open a dataset in its folder, drawing it first if it can be drawn.

    Raises
    ------
    UserError
        If it needs a folder and none was given, or the folder does not hold it.
    """
    if dataset_class.needs_root:
        if root is None:
            missing = f"dataset {dataset_class.name} needs its folder: --root DIR, or WSSS_HARNESS_ROOT"
            raise UserError(missing + dataset_class.mend())
        if not root.is_dir():
            missing = f"no folder {root}: --root names the folder of dataset {dataset_class.name}"
            raise UserError(missing + dataset_class.mend(root))
        dataset = dataset_class(root)
    else:
        dataset = dataset_class(cache_folder() / f"{dataset_class.name}-{dataset_class.version}")
    dataset.prepare()
    return dataset
