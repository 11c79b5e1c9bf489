"""What is written down of a cell when it ends."""

from __future__ import annotations

import time
from typing import Any, cast

from harness import provenance
from harness.bootstrap import interval, resample
from harness.metrics import Confusions, finalise
from harness.results.record import BestThreshold, Metrics, Record, StageFacts, Status
from harness.results.store import LOG, Artefact, Store
from harness.run.plan import Plan, PlannedCell

LOG_LINES = 5  # of what a stage has printed


def record_of(planned: PlannedCell, plan: Plan, store: Store) -> Record:
    """Return the record of a cell whose stages are all there."""
    artefacts = [store.need(plan.nodes[key].stage, key) for key in planned.nodes]
    fitted = next((a for a in artefacts if a.key == planned.artefacts["fit"]), None)
    parameters = fitted.json("parameters.json") if fitted else None
    return {
        **_base(planned, "done"),
        **_verified(planned, artefacts, parameters, store),
        "metrics": {
            split: split_metrics(store, place, planned.cell.spec.protocol.metric)
            for split, place in planned.artefacts["splits"].items()
            if "evaluate" in place
        },
        "best_threshold": {
            split: _best_threshold(store, place["curve"])
            for split, place in planned.artefacts["splits"].items()
            if "curve" in place
        },
        "parameters": parameters,
        "curves": fitted.json("curves.json") if fitted else [],
        "choice": next((a.json("choice.json") for a in artefacts if a.stage == "select"), None),
        "artefacts": planned.artefacts,
        "stages": [_stage(a) for a in artefacts],
        "provenance": {"command": provenance.command_line(), **provenance.environment()},
    }


def _verified(
    planned: PlannedCell, artefacts: list[Artefact], parameters: dict[str, int] | None, store: Store
) -> Record:
    """Return what is written down of a verification: scores by split, and what was trained on which masks."""
    trained = next((a for a in artefacts if a.stage == "verify"), None)
    if trained is None:
        return {}
    facts = trained.json("verifier.json")
    packages = trained.manifest["environment"]["packages"]
    facts["packages"] = {
        name: version for name, version in packages.items() if name.removeprefix("onedl-").startswith("mm")
    }
    facts["pipeline"] = facts["parameters"] + parameters["total"] if parameters else None
    return {
        "verification": {
            split: split_metrics(store, {"evaluate": place["verification"]}, planned.cell.spec.protocol.metric)
            for split, place in planned.artefacts["splits"].items()
            if "verification" in place
        },
        "verifier": planned.about["verifier"] | facts,
    }


def record_of_failure(planned: PlannedCell, status: Status, reason: str, stage: str = "", tail: str = "") -> Record:
    """Return the record of a cell that failed, ran out of memory or was skipped."""
    return _base(planned, status) | {
        "reason": reason,
        "failed_stage": stage,
        "tail": tail,
        "provenance": {"command": provenance.command_line(), **provenance.environment()},
    }


def split_confusions(store: Store, place: dict[str, Any]) -> Confusions:
    """Return the confusion matrices of a split, from those of its shards."""
    return Confusions.join(
        [Confusions.load(store.need("evaluate", key).file("confusion.npy")) for key in place["evaluate"]]
    )


def split_metrics(store: Store, place: dict[str, Any], definition: str) -> Metrics:
    """Return the scores of a split: those of its masks, and those of its score maps where there are any.

    To what `finalise` gives come `interval`, 95 % of the pooled mIoU over resampled images; and `pxap`, `ap` per
    foreground class and the `best_threshold`, which is chosen on the split's own pixels.
    """
    confusions = split_confusions(store, place)
    metrics = finalise(confusions, definition) | {"interval": interval(resample(confusions.counts()))}
    if "curve" in place:
        curve = store.need("curve", place["curve"]).json("curve.json")
        metrics |= {"pxap": curve["pxap"], "ap": curve["ap"], "best_threshold": curve["threshold"]}
    return cast("Metrics", metrics)


def _best_threshold(store: Store, key: str) -> BestThreshold:
    """Return the background that is best on a split's own pixels, before any refiner, and its mIoU: an oracle."""
    curve = store.need("curve", key).json("curve.json")
    return {"threshold": curve["threshold"], "miou": max(curve["sweep"])}


def _base(planned: PlannedCell, status: Status) -> Record:
    return {
        "key": planned.key,
        "status": status,
        "title": planned.cell.spec.title,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "spec": planned.cell.spec.model_dump(mode="json"),
        "origins": planned.cell.origins,
        **cast("Record", planned.about),
    }


def _stage(artefact: Artefact) -> StageFacts:
    kept = ("stage", "key", "seconds", "memory_mb", "device", "threads", "bytes", "images_at_once")
    log = artefact.path / LOG
    printed = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:] if log.exists() else []
    found = {name: artefact.manifest[name] for name in kept if name in artefact.manifest}
    if artefact.stage == "fit_refiner":
        found["curves"] = artefact.json("curves.json")
    return cast("StageFacts", found | {"log": [line[:200] for line in printed]})
