"""From cells to a graph of stages: what must be computed, what is there already, and why the rest is not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.cell import Cell, RunSpec, distinct_titles
from harness.data.decoded import DecodedImages, decoded_folder
from harness.errors import MissingWeightsError
from harness.file_setting import known_places
from harness.inputs import Inputs
from harness.results.record import SETTLED
from harness.results.store import Store
from harness.run.about import about
from harness.run.graph import CellGraph, Graph
from harness.stages import SHARD, STAGES, Locations, Node
from harness.strict import digest


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
        What the record says beside the spec: timm id, hashes, the effective rules.
    """

    cell: Cell
    key: str
    nodes: list[str]
    artefacts: dict[str, Any]
    about: dict[str, Any]


@dataclass
class Plan(Graph):
    """Cells, and the graph of the stages that they share.

    Attributes
    ----------
    cells : list of PlannedCell
    locations : Locations
    notes : list of str
        What a person should know before it starts.
    """

    cells: list[PlannedCell] = field(default_factory=list)
    locations: Locations = field(default_factory=lambda: Locations("", {}))
    notes: list[str] = field(default_factory=list)

    @property
    def titles(self) -> dict[str, str]:
        """What to call each cell, by its key: no two are called the same."""
        titles = distinct_titles([planned.cell.spec for planned in self.cells])
        return {planned.key: title for planned, title in zip(self.cells, titles, strict=True)}

    def locations_of(self, node: Node) -> Locations:
        """Return what a stage sees of this machine; dataset roots only if it may read ground truth."""
        may_see = STAGES[node.stage].sees_ground_truth(node.config)
        paths = self.image_paths.get(node.parents.get("labels", ""), ())
        if (shard := getattr(node.config, "shard", None)) is not None:
            paths = paths[shard * SHARD :][:SHARD]
        return replace(self.locations, roots=self.locations.roots if may_see else {}, image_paths=paths)

    def decode(self, keys: Iterable[str]) -> DecodedImages:
        """Hand decoded images to some stages; they are returned, and to be written before these stages run."""
        nodes = [self.nodes[key] for key in keys]
        opening = [node for node in nodes if STAGES[node.stage].opens_images(node.config)]
        splits = dict.fromkeys(node.parents["labels"] for node in opening)
        files = [found for split in splits for found in zip(self.image_paths[split], self.contents[split], strict=True)]
        decoded = DecodedImages(decoded_folder(Path(self.locations.store)), files)
        for split in splits:
            self.image_paths[split] = tuple(str(decoded.place(image)) for image in self.contents[split])
        return decoded

    def missing(self, store: Store, keep: Collection[str] | None = None) -> list[str]:
        """Return the keys of the stages that are still to run, parents first.

        Those are what unfinished cells need, and of done cells the stages that are asked to be kept but are gone, with
        whatever these read.
        """
        needed: set[str] = set()
        for planned in self.cells:
            if not is_done(store, planned):
                needed.update(planned.nodes)
            else:
                for key in self.gone(store, planned, keep or ()):
                    self._add_with_parents(key, needed, store)
        return [key for key, node in self.nodes.items() if key in needed and not store.artefact(node.stage, key)]

    def gone(self, store: Store, planned: PlannedCell, stages: Collection[str]) -> list[str]:
        """Return the keys of a cell's stages, of some kinds, whose artefacts are not there."""
        nodes = [self.nodes[key] for key in planned.nodes]
        return [node.key for node in nodes if node.stage in stages and not store.artefact(node.stage, node.key)]

    def _add_with_parents(self, key: str, needed: set[str], store: Store) -> None:
        node = self.nodes[key]
        if key not in needed and not store.artefact(node.stage, key):
            needed.add(key)
            for parent in node.parents.values():
                self._add_with_parents(parent, needed, store)


def plan_cells(cells: Iterable[Cell], inputs: Inputs) -> Plan:
    """Return the plan of some cells.

    Raises
    ------
    UserError
        For whatever would make a cell fail for sure: a missing folder, a broken image, weights that do not exist.
    MissingWeightsError
        If no cell's weights can be fetched; where only some lack them, those are skipped.
    """
    plan, missing = Plan(), []
    for cell in cells:
        try:
            plan.cells.append(_plan_cell(plan, _labelled(cell, inputs), inputs))
        except MissingWeightsError as error:
            missing.append(error)
            plan.cells.append(_plan_cell(plan, replace(cell, skip=str(error)), inputs))
    if missing and not any(planned.nodes for planned in plan.cells):
        raise missing[0]
    store = str(inputs.store.absolute())
    plan.locations = Locations(store, inputs.roots(), inputs.weight_files() | known_places(), inputs.registry.plugins)
    plan.notes = inputs.notes()
    return plan


def _labelled(cell: Cell, inputs: Inputs) -> Cell:
    """Return a cell with image labels from the masks, where its dataset's own annotations are not there; say so."""
    protocol = cell.spec.protocol
    if cell.barred or "label_source" not in cell.origins or protocol.label_source == "masks":
        return cell
    dataset = inputs.dataset(cell.spec.dataset)
    if dataset.has_labels(str(protocol.label_source)) or not dataset.has_masks:
        return cell
    inputs.remark(f"{dataset.name} has no annotations here: its image labels are derived from the masks")
    spec = cell.spec.model_copy(update={"protocol": protocol.model_copy(update={"label_source": "masks"})})
    return replace(cell, spec=spec)


def _plan_cell(plan: Plan, cell: Cell, inputs: Inputs) -> PlannedCell:
    if cell.barred:
        return PlannedCell(cell, cell_key(cell.spec, cell.why_barred), [], {}, {})
    graph = CellGraph(inputs, plan, cell)
    artefacts = graph.artefacts()
    return PlannedCell(cell, cell_key(cell.spec, artefacts), list(dict.fromkeys(graph.keys)), artefacts, about(graph))


def cell_key(spec: RunSpec, made: Any) -> str:
    """Return the key of a cell, from its spec and the keys of its stages, or the reason why it has none."""
    keyed = spec.model_dump(mode="json")
    for name in ("summary", "source"):
        keyed["protocol"].pop(name)
    return digest([keyed, made])


def is_done(store: Store, planned: PlannedCell) -> bool:
    """Return whether a cell has its final record."""
    record = store.record(planned.key)
    return record is not None and record["status"] in SETTLED
