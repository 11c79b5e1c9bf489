"""Published scores as data: what papers and repositories print, under which protocol, and which cell of ours it is of.

A file in `configs/published` holds tables; what a table, a column or a row says of its scores is said once, and the
row's entry goes before the column's, the table's and the file's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.protocol import Protocol
from harness.registry import Registry
from harness.strict import Frozen, parse, read_yaml

NOTHING = "–"

Stage = Literal["bpm", "crf", "refined", "segmentation"]
Metric = Annotated[str, Field(pattern=r"^(miou|pixacc|foreground|jaccard|iou:.+)$")]


def _numbers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str):
        raise ValueError("expected text, so that digits stay as they are printed: put a single number in quotes")
    words = tuple(value.split())
    wrong = [entry for entry in words if entry != NOTHING and not re.fullmatch(r"\d+(\.\d+)?", entry)]
    if wrong:
        raise ValueError(f"expected numbers in per cent, or {NOTHING} for none: '{wrong[0]}'")
    return words


class Tolerance(Frozen):
    """By how many points a measured score may differ and still agree, and why so many."""

    points: float = Field(default=1.0, gt=0)
    reason: str = Field(default="not estimated", min_length=1)


class Stated(Protocol):
    """The fields of a protocol that a source states or its code shows; those of the named protocol among them."""

    name: str = ""


class Facts(Frozen):
    """What a score may have beside what it must have; see `Score`."""

    metric: Metric = "miou"
    network: str = ""
    verifier: str = ""
    method: str = ""
    backbone: str = ""
    settings: dict[str, Any] = {}
    tolerance: Tolerance = Tolerance()


class Level(Facts):
    """What a file, a table, a column or a row says of all its scores."""

    dataset: str = ""
    split: str = ""
    stage: Stage | None = None
    protocol: Stated = Stated()
    source: str = ""


class Column(Level):
    """A column, under the heading that is printed over it."""

    heading: str


class Row(Level):
    """A row: a number for each column, or a dash where none is printed."""

    label: str
    scores: Annotated[tuple[str, ...], BeforeValidator(_numbers)]
    notes: tuple[str, ...] = ()


class PublishedTable(Level):
    """A table, and the experiment that measures its cells again."""

    title: str
    experiment: str = ""
    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> PublishedTable:
        for row in self.rows:
            if len(row.scores) != len(self.columns):
                raise ValueError(f"row '{row.label}' has {len(row.scores)} scores for {len(self.columns)} columns")
        return self


class Publication(Level):
    """A file of `configs/published`."""

    summary: str
    tables: dict[str, PublishedTable]


class Caption(Frozen):
    """What is said of a table as a whole.

    Attributes
    ----------
    publication, name, title : str
        The file's name, and the table's name and title.
    experiment : str
        The experiment that measures its cells again; empty for none.
    notes : tuple of str
        What a reader must know of all its scores, its known errors among them.
    """

    publication: str
    name: str
    title: str
    experiment: str
    notes: tuple[str, ...]


class Score(Facts):
    """A published score.

    Attributes
    ----------
    table : Caption
        The table that it stands in.
    label, network, heading : str
        Its row, the backbone or network named there, and the heading of its column, as they are printed.
    dataset, split : str
        What the source says that it was scored on.
    stage : {"bpm", "crf", "refined", "segmentation"}
        Of what: baseline pseudo-masks; those after a dense CRF; pseudo-masks after a refiner that was trained; or the
        output of a segmentation network.
    metric : str
        `miou`, `pixacc`; `iou:CLASS` of one class; `foreground`, the IoU of all classes but the background, as if they
        were one; or `jaccard`, the best of a ViT's heads for each object, averaged over objects and images.
    printed : str
        In per cent, with the digits that are printed.
    method, backbone, settings : str, str, dict
        The method of ours that it is a score of, the alias of the backbone, and the settings that distinguish its row;
        empty for a score that nothing of ours measures.
    protocol : dict
        The protocol fields that the source states or its code shows, named and spelt as in a record; an absent one is
        unknown. Those of `refined` masks are of the maps that the refiner began with.
    verifier : str
        The segmentation network and its initialisation, where the source says so.
    tolerance : Tolerance
    source : str
        Paper and table, or repository.
    notes : tuple of str
        What a reader must know of its row, known errors among them.
    """

    table: Caption
    label: str
    heading: str
    dataset: str = Field(min_length=1)
    split: str = Field(min_length=1)
    stage: Stage
    printed: str
    protocol: dict[str, Any] = {}
    source: str = Field(min_length=1)
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The score in per cent."""
        return float(self.printed)

    @property
    def verified(self) -> bool:
        """Whether it is of a network that was trained on the masks, by a recipe of ours."""
        return self.stage == "segmentation" and "verify" in self.protocol

    def of(self, spec: Mapping[str, Any]) -> bool:
        """Return whether a cell measures this score.

        Parameters
        ----------
        spec : mapping
            The cell's, as a record holds it.

        Returns
        -------
        bool
            Whether method, backbone, settings, dataset, split, refiner and verifier are those of the score. The rest
            of the protocol, the other settings, seeds and a limit of images are not looked at: they decide whether
            the two numbers may be compared.
        """
        protocol = spec["protocol"]
        ours = (spec["method"], spec["backbone"], spec["dataset"], protocol["refine"])
        return (
            ours == (self.method, self.backbone, self.dataset, self.protocol.get("refine"))
            and (not self.verified or protocol.get("verify") == self.protocol["verify"])
            and self.split in protocol["eval_splits"]
            and all(spec["params"].get(key) == value for key, value in self.settings.items())
        )


def published(registry: Registry, *names: str) -> list[Score]:
    """Return published scores, in the order in which they are printed.

    Parameters
    ----------
    registry : Registry
    *names : str
        Publications; all that are known where none is named.

    Returns
    -------
    list of Score

    Raises
    ------
    UserError
        For an unknown name, key or value, with the file and where in it.
    """
    return [score for name in names or registry.names("published") for score in _scores(registry, name)]


def _scores(registry: Registry, name: str) -> Iterator[Score]:
    path = registry.entry("published", name).source
    publication = parse(Publication, read_yaml(path), source=path)
    for number, table in publication.tables.items():
        caption = Caption(
            publication=name, name=number, title=table.title, experiment=table.experiment, notes=table.notes
        )
        if table.experiment:
            registry.entry("experiment", table.experiment)
        for row in table.rows:
            for column, printed in zip(table.columns, row.scores, strict=True):
                if printed == NOTHING:
                    continue
                facts = _facts(registry, publication, table, column, row)
                own = {"label": row.label, "heading": column.heading, "printed": printed, "notes": row.notes}
                where = f"{path}: table {number}, row '{row.label}', column '{column.heading}'"
                yield parse(Score, {"table": caption, **facts, **own}, where=where)


def _facts(registry: Registry, *levels: Level) -> dict[str, Any]:
    """Return what several levels say of a score, the later before the earlier."""
    facts: dict[str, Any] = {}
    for level in levels:
        facts = _over(facts, level.model_dump(mode="json", exclude_unset=True, include=set(Level.model_fields)))
    for kind in ("method", "backbone"):
        if facts.get(kind):
            registry.entry(kind, facts[kind])
    protocol = facts.get("protocol", {})
    if named := protocol.pop("name", ""):
        whole = parse(Stated, registry.load("protocol", named), source=registry.entry("protocol", named).source)
        words = {"name", "summary", "source", "version"}
        protocol = _over(whole.model_dump(mode="json", exclude_unset=True, exclude=words), protocol)
    if facts.get("stage") == "bpm":
        protocol["refine"] = "none"
    return {**facts, "protocol": protocol}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay a mapping over another, and mappings in it over those in the other."""
    both = [key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)]
    return below | above | {key: _over(below[key], above[key]) for key in both}
