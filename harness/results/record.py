"""A record: what is known of a cell once it has ended. Its fields, in one place for all who write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from harness.strict import KEY

SCHEMA = 1
Status = Literal["done", "failed", "oom", "timeout", "skipped"]
SETTLED = ("done", "skipped")  # what the same command does not run again

Key = Annotated[str, StringConstraints(pattern=f"^{KEY}$")]
OPEN = with_config(ConfigDict(extra="allow", strict=True))  # a later version may write more


@OPEN
class Metrics(TypedDict):
    """The scores of a split, shares in [0, 1]; `interval` is 95 % of the mIoU over resampled images."""

    miou: float
    interval: list[float]
    iou: list[float | None]
    pixacc: float
    macc: float
    coverage: float
    precision: NotRequired[list[float | None]]
    recall: NotRequired[list[float | None]]
    fp: NotRequired[list[float | None]]
    fn: NotRequired[list[float | None]]
    foreground: NotRequired[float | None]
    objects: NotRequired[float | None]
    pixels: NotRequired[Any]
    pxap: NotRequired[float | None]
    ap: NotRequired[list[float | None]]
    best_threshold: NotRequired[float]


@OPEN
class BestThreshold(TypedDict):
    """The background threshold that is best on a split's own pixels, and its mIoU: an oracle."""

    threshold: float
    miou: float


@OPEN
class StageFacts(TypedDict):
    """What a stage took, and the last lines that it printed; of a refiner's training, its losses."""

    stage: str
    key: Key
    seconds: float
    memory_mb: dict[str, int]
    device: str
    threads: int
    bytes: int
    images_at_once: NotRequired[int]
    log: NotRequired[list[str]]
    curves: NotRequired[list[dict[str, float]]]


class Record(TypedDict, total=False):
    """A record, as it stands in `records/<key>.json`; see results/README.md for what the fields mean.

    Those of a cell that is not done are `reason`, `failed_stage` and `tail`, without scores. A cell that was skipped
    has no more than its spec, the reason and the provenance.
    """

    schema: int
    key: str
    status: Status
    title: str
    ended: str
    spec: dict[str, Any]
    origins: dict[str, str]
    provenance: dict[str, Any]
    reason: str
    failed_stage: str
    tail: str
    timm: str
    weights: dict[str, str]
    checkpoint: dict[str, str] | None
    method_version: str
    supervision: list[str]
    applied: dict[str, Any]
    ground_truth: list[dict[str, Any]]
    classes: list[str]
    data: dict[str, str]
    masks: dict[str, Any]
    pictures: dict[str, int]
    overlaps: dict[str, int]
    metrics: dict[str, Metrics]
    best_threshold: dict[str, BestThreshold]
    verification: dict[str, Metrics]
    verifier: dict[str, Any]
    parameters: dict[str, int] | None
    curves: list[dict[str, float]]
    choice: dict[str, Any] | None
    artefacts: dict[str, Any]
    stages: list[StageFacts]


@OPEN
class _Base(TypedDict):
    key: Key
    title: str
    ended: str
    spec: dict[str, Any]
    provenance: dict[str, Any]


_Places = dict[str, Key | dict[str, dict[str, Key | list[Key]]] | None]


@OPEN
class _Done(_Base):
    status: Literal["done"]
    classes: list[str]
    data: dict[str, str]
    metrics: dict[str, dict[str, Any]]
    artefacts: _Places
    stages: list[StageFacts]


@OPEN
class _NotDone(_Base):
    status: Literal["failed", "oom", "timeout", "skipped"]
    reason: str
    failed_stage: str
    tail: str


def curves_of(record: Record, stage: str) -> list[dict[str, float]] | None:
    """Return losses and learning rate over a training, `fit` or `fit_refiner`; None where none are known."""
    if stage == "fit":
        return record.get("curves")
    return next((facts.get("curves") for facts in record.get("stages", []) if facts["stage"] == stage), None)


_ALWAYS = ("key", "title", "status", "spec", "ended")
_SCORED = ("metrics", "artefacts", "classes")
_FORM: TypeAdapter[Any] = TypeAdapter(Annotated[_Done | _NotDone, Discriminator("status")])


def missing_field(record: Mapping[str, Any]) -> str:
    """Return a field that no reader of a results folder does without, and a record has not; empty where it has all."""
    needed = (*_ALWAYS, *(_SCORED if record.get("status") == "done" else ()))
    return next((name for name in needed if name not in record), "")


def problem_of(record: Any) -> str:
    """Return what is wrong with a record that comes from elsewhere, on one line; empty where nothing is."""
    try:
        _FORM.validate_python(record)
    except (ValidationError, RecursionError) as error:
        return plain(error)
    return ""


def plain(error: Exception) -> str:
    """Return what an error says, on one line of plain characters."""
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return ascii(problem)[1:-1][:200]
