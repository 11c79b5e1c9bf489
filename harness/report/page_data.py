"""What a page needs of each record to say where a number comes from, with everything that repeats held once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.results.record import Record, StageFacts
from harness.strict import canonical

_SCORES = ("miou", "pixacc", "macc", "coverage", "foreground", "pxap", "best_threshold")
_DIGITS = 4  # of shares in [0, 1]: a hundredth of a point


def drawers(
    records: Iterable[Record], against: Mapping[str, Any] | None = None, methods: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what stands in the drawers of a page.

    Parameters
    ----------
    records : iterable of dict
    against : mapping, optional
        By key: the others of a record's table, see `harness.report.ranking.against_others`.
    methods : mapping, optional
        What each method is, by name.

    Returns
    -------
    dict
        `values`, each once; `fields`; and `records`: for each key an index into `values` for each field. The value of
        `stages` is a list of further indices.
    """
    pool = _Pool()
    more = against or {}, methods or {}
    kept = {record["key"]: _kept(record, pool, *more) for record in records}
    fields = list(next(iter(kept.values()), {}))
    return {
        "fields": fields,
        "records": {key: [pool.index(values[field]) for field in fields] for key, values in kept.items()},
        "values": pool.values,
    }


class _Pool:
    """Values, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def index(self, value: Any) -> int:
        """Return where a value stands."""
        text = canonical(value)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def _kept(record: Record, pool: _Pool, against: Mapping[str, Any], methods: Mapping[str, str]) -> dict[str, Any]:
    spec, provenance = record["spec"], record["provenance"]
    protocol = {name: value for name, value in spec["protocol"].items() if value not in ("", [])}
    fields: dict[str, Any] = {**record}
    return {
        **{name: fields[name] for name in ("title", "status", "ended", "origins")},
        **{name: fields.get(name, "") for name in ("reason", "failed_stage", "tail", "timm", "method_version")},
        **{name: fields.get(name) or {} for name in ("weights", "checkpoint", "applied", "data", "parameters")},
        **{name: fields.get(name) or [] for name in ("supervision", "ground_truth", "classes")},
        **{name: spec[name] for name in ("method", "backbone", "dataset", "seed", "limit", "params")},
        "pictures": record.get("pictures") or {},
        "choice": {name: value for name, value in (record.get("choice") or {}).items() if not isinstance(value, list)},
        "protocol": protocol,
        "splits": {split: _scores(metrics) for split, metrics in (record.get("metrics") or {}).items()},
        "stages": [pool.index(_stage(stage)) for stage in record.get("stages", [])],
        "against": _rounded([list(row) for row in against.get(record["key"], [])]),
        "about": methods.get(spec["method"], ""),
        "command": provenance["command"],
        "made_with": {name: provenance[name] for name in ("python", "platform", "cpu", "source")},
        "packages": provenance["packages"],
    }


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: metrics[name] for name in _SCORES if metrics.get(name) is not None}
    numbers |= {"interval": metrics["interval"], "iou": metrics["iou"]}
    return {name: _rounded(value) for name, value in numbers.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


def _stage(stage: StageFacts) -> list[Any]:
    """Return name, key, seconds, peak memory, device and bytes."""
    memory = ", ".join(f"{where} {peak}" for where, peak in stage["memory_mb"].items())
    return [stage["stage"], stage["key"], stage["seconds"], memory, stage["device"], stage["bytes"]]
