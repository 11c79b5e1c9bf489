"""From cells to a graph of stages: what must be computed, what is there already, and why the rest is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.base import Dataset
from harness.data.index import SplitIndex, index_split
from harness.data.toy import cache_folder
from harness.errors import UserError
from harness.method import Method
from harness.registry import Registry
from harness.spec import Cell, Protocol, effective_background, effective_gating, refiner_config
from harness.stages import SHARD, Locations, Node
from harness.store import Store
from harness.strict import digest

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
        Keys of its stages by their place: `fit`, and under each split `labels`, `score`, and a list by shard of `mask`
        and `evaluate`.
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
    notes : list of str
        What a person should know before it starts.
    """

    cells: list[PlannedCell] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    locations: Locations = field(default_factory=lambda: Locations("", {}))
    notes: list[str] = field(default_factory=list)

    def missing(self, store: Store) -> list[str]:
        """Return the keys of the stages that unfinished cells still need, parents first."""
        needed: set[str] = set()
        for planned in self.cells:
            if not planned.cell.skip and not is_done(store, planned):
                needed.update(planned.nodes)
        return [key for key, node in self.nodes.items() if key in needed and not store.artefact(node.stage, key)]


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
            {name: str(dataset.root.absolute()) for name, dataset in self._datasets.items()},
            {w.sha256: str(w.path.absolute()) for w in self._weights.values() if w.path},
            self.registry.plugins,
        )
        plan.notes = [self._datasets[name].note for name in self._datasets if self._datasets[name].note]
        return plan

    def _cell(self, plan: Plan, cell: Cell) -> PlannedCell:
        spec, protocol = cell.spec, cell.spec.protocol
        keyed = spec.model_dump(mode="json")
        keyed["protocol"].pop("summary")
        if cell.skip:
            return PlannedCell(cell, digest([keyed, cell.skip]), [], {}, {})
        method: type[Method] = self.registry.load("method", spec.method)
        dataset = self._dataset(spec.dataset)
        class_ids = dataset.class_ids(protocol.classes)
        identifier, weights = self._backbone(method, spec.backbone, cell.weights)
        version = self.registry.source_version("method", spec.method)
        nodes: list[Node] = []

        def add(stage: str, config: dict[str, Any], parents: list[Node], label: str) -> Node:
            node = Node(stage, config, {parent.stage: parent.key for parent in parents}, label)
            nodes.append(plan.nodes.setdefault(node.key, node))
            return node

        def labels(split: str, masks: bool) -> Node:
            masks = masks or protocol.label_source == "masks"
            index = self._split(dataset, split, protocol.label_source, masks, spec.limit)
            config = {
                "dataset": spec.dataset, "split": split, "limit": spec.limit, "masks": masks, "class_ids": class_ids,
                "label_source": protocol.label_source, "background_label": protocol.background_label,
                "content": index.digest,
            }  # fmt: skip
            return add("labels", config, [], f"{spec.dataset}/{split}")

        title = f"{spec.method} {spec.backbone} s{spec.seed}".replace(" none", "")
        assert protocol.fit_split
        base = {"dataset": spec.dataset, "method": spec.method, "version": version, "precision": protocol.precision}
        fit = add(
            "fit",
            base | {
                "params": _fit_params(method, spec.params), "timm": identifier,
                "weights": weights.sha256 or weights.source, "num_classes": len(class_ids), "seed": spec.seed,
            },
            [labels(protocol.fit_split, masks=False)],
            title,
        )  # fmt: skip
        artefacts: dict[str, Any] = {"fit": fit.key, "splits": {}}
        applied: dict[str, Any] = {"background": effective_background(method, protocol), "gating": {}}
        for split in protocol.eval_splits:
            gating = effective_gating(method, protocol.gating(split, dataset.training_splits))
            applied["gating"][split] = gating
            rules = {
                "gating": gating, "normalisation": protocol.normalisation, "background": applied["background"],
                "align_corners": protocol.align_corners,
            }  # fmt: skip
            given = labels(split, masks=True)
            score = add(
                "score",
                base | {
                    "params": spec.params, "size": protocol.size or spec.params["inference_size"],
                    "scales": list(protocol.scales), "flip": protocol.flip, "class_ids": class_ids,
                    "labels_given": method.conditions_on_labels and gating == "gt",
                },
                [fit, given],
                f"{title} {split}",
            )  # fmt: skip
            shards = range(-(-len(self._split(dataset, split, protocol.label_source, True, spec.limit).ids) // SHARD))
            masks, evaluations = [], []
            for shard in shards:
                place = {"dataset": spec.dataset, "class_ids": class_ids, "shard": shard}
                label = f"{title} {split} {protocol.refine}" + (
                    f" {shard + 1}/{len(shards)}" if len(shards) > 1 else ""
                )
                refine = refiner_config(self.registry, protocol)
                mask = add("mask", place | {"rules": rules, "refine": refine}, [score, given], label)
                masks.append(mask.key)
                evaluations.append(add("evaluate", place, [mask, given], label).key)
            artefacts["splits"][split] = {
                "labels": given.key, "score": score.key, "mask": masks, "evaluate": evaluations,
            }  # fmt: skip
        about = {
            "timm": identifier,
            "weights": {
                "source": weights.source,
                "sha256": weights.sha256,
                "file": weights.path.name if weights.path else "",
            },
            "method_version": version,
            "supervision": list(method.supervision),
            "applied": applied,
            "classes": [dataset.classes[class_id] for class_id in class_ids],
            "data": {node.config["split"]: node.config["content"] for node in nodes if node.stage == "labels"},
            "pictures": {split: self._count(dataset, split, protocol, spec.limit) for split in protocol.eval_splits},
        }
        key = digest([keyed, artefacts])
        return PlannedCell(cell, key, list(dict.fromkeys(node.key for node in nodes)), artefacts, about)

    def _count(self, dataset: Dataset, split: str, protocol: Protocol, limit: int | None) -> int:
        return len(self._split(dataset, split, protocol.label_source, True, limit).ids)

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            dataset_class: type[Dataset] = self.registry.load("dataset", name)
            self._datasets[name] = open_dataset(dataset_class, self.root)
        return self._datasets[name]

    def _split(self, dataset: Dataset, split: str, source: str, masks: bool, limit: int | None) -> SplitIndex:
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

    def _backbone(self, method: type[Method], backbone: str, choice: str) -> tuple[str, Any]:
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
            raise UserError(f"dataset {dataset_class.name} needs its folder: --root DIR, or WSSS_HARNESS_ROOT")
        if not root.is_dir():
            raise UserError(f"no folder {root}: --root names the folder of dataset {dataset_class.name}")
        dataset = dataset_class(root)
    else:
        dataset = dataset_class(cache_folder() / f"{dataset_class.name}-{dataset_class.version}")
    dataset.prepare()
    return dataset


def _fit_params(method: type[Method], params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that training depends on: all but those marked as of the stage `score`."""
    marks = {name: field.json_schema_extra for name, field in method.Params.model_fields.items()}
    return {name: value for name, value in params.items() if marks[name] != {"stage": "score"}}
