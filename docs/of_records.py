"""What pages show of records: tables, what is not run yet, by how much a step moves a score, and figures."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean, mode
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness.protocol import Protocol
from harness.registry import Registry
from harness.report.compare import compare
from harness.report.dataframe import load_results, once, variant, varying
from harness.report.figures import cost_figure, draw_sensitivity, parameters_figure, ranking_figure
from harness.report.figures.canvas import LeftOut
from harness.report.figures.cost import training_seconds
from harness.report.figures.series import coloured, contenders, scored
from harness.report.formats import markdown
from harness.report.gains import refiner_gains
from harness.report.of_experiment import named
from harness.report.order import published_order
from harness.report.published import Score, published
from harness.report.ranking import Ranking, Stand, by_size, rankings
from harness.report.sensitivity import sensitivity, shared
from harness.report.tables import Table, comparison
from harness.results.store import Store
from harness.spec import expand, experiment

ROOT = Path(__file__).parent.parent
COMPARISON = "results/reference/comparison-short"
UNDER_PROTOCOLS = f"results/reference/sensitivity-short+{COMPARISON}"


def tables(folders: str) -> str:
    """Return the comparison tables of results folders, with the names of the first one's experiment's rows."""
    return _tables(_together(folders), folders)


def unrefined(folders: str) -> str:
    """Return the comparison tables of what has no refiner."""
    found = _together(folders)
    return _tables(found[found.refine == "none"], folders)


def _tables(found: pd.DataFrame, folders: str) -> str:
    registry, name = Registry(), _experiment_of(folders)
    if name in registry.names("experiment"):
        found = named(found, [experiment(registry, name)], registry)
    return "\n".join(map(markdown, comparison(found)))


def _together(folders: str) -> pd.DataFrame:
    """Return the results of folders that are joined by +."""
    return pd.concat([load_results(ROOT / folder) for folder in folders.split("+")], ignore_index=True)


def _experiment_of(folders: str) -> str:
    return Path(folders.partition("+")[0]).name


def left(folders: str) -> str:
    """Return the cells of the first folder's experiment that no folder has a score of, by method."""
    done = [record["spec"] for record in _together(folders).record]
    missing: dict[str, list[str]] = {}
    cells = [
        cell.spec.model_dump(mode="json")
        for cell in expand(experiment(Registry(), _experiment_of(folders)).grids, Registry())
    ]
    changing = {
        own["method"]: varying(spec["params"] for spec in cells if spec["method"] == own["method"]) for own in cells
    }
    for spec in cells:
        if not any(_is_of(record, spec) for record in done):
            refine, verify = (spec["protocol"].get(name, "none") for name in ("refine", "verify"))
            parts = [
                spec["backbone"].removeprefix("timm:"), variant(spec["params"], changing[spec["method"]]),
                refine, verify, f"seed {spec['seed']}",
            ]  # fmt: skip
            missing.setdefault(spec["method"], []).append(", ".join(part for part in parts if part not in ("", "none")))
    if not missing:
        return f"All {len(cells)} cells are scored.\n"
    rows = [[f"`{method}`", "; ".join(titles)] for method, titles in missing.items()]
    count = sum(map(len, missing.values()))
    lines = (
        f"{len(cells) - count} of {len(cells)} cells are scored. The others, in the order in which a run takes methods:"
    )
    return f"{lines}\n\n{tabulate(rows, ['method', 'not run'], 'pipe')}\n"


def _is_of(recorded: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Return whether a record is of a cell: settings that came later, and what start weights are called, aside."""
    own, other = (
        {key: value for key, value in one.items() if key not in ("weights", "params")} for one in (recorded, spec)
    )
    return own == other and recorded["params"].items() <= spec["params"].items()


def classes(folders: str) -> str:
    """Return the IoU of each class on the held-out split, without a refiner, the mean over seeds."""
    found = _together(folders)
    found = once(found[(found.split == "val") & (found.refine == "none")])
    lines = []
    for series in contenders(scored(found, "val"), LeftOut()):
        means = 100 * pd.DataFrame([*series.rows.iou], dtype=float).mean()
        lines.append([series.label, *(f"{value:.1f}" for value in means)])
    return tabulate(lines, ["method", *found.iou.iloc[0]], "pipe", disable_numparse=True) + "\n"


def short(named: str) -> str:
    """Return the table of some methods on a backbone, `FOLDER METHODS BACKBONE`, short.

    It has four columns, no oracle's, and the notes that are of all its rows.
    """
    folder, methods, backbone = named.split()
    found = load_results(ROOT / folder)
    table = comparison(found[found.method.isin(methods.split(",")) & (found.backbone == backbone)])[0]
    shown = [number for number, name in enumerate(table.columns) if "best threshold" not in name][:4]

    def plain(text: str) -> str:
        return re.sub(r" \[[a-z,]+\]$", "", text)

    rows = [[plain(row[number]) for number in shown] for row in table.rows]
    bold = {(row, shown.index(column)) for row, column in table.bold if column in shown}
    notes = [note for note in table.notes if not note.startswith(("[", "all methods"))]
    shorter = Table(table.title, [plain(table.columns[number]) for number in shown], rows, bold, notes)
    return markdown(shorter).partition("\n")[2].lstrip("\n")


def sensitivities(folders: str) -> str:
    """Return the table of what the protocol is worth to the trainings that the first folder has records of."""
    return "\n".join(map(markdown, sensitivity(_of_same_trainings(folders))))


def _of_same_trainings(folders: str) -> pd.DataFrame:
    """Return what the trainings that the first folder has records of scored in all folders, unrefined or by a CRF."""
    found = _together(folders)
    found = found[(found.refine == "none") | found.refine.str.startswith("crf:")]
    trainings = {record["artefacts"]["fit"] for record in load_results(ROOT / folders.partition("+")[0]).record}
    return found[[record["artefacts"]["fit"] in trainings for record in found.record]]


def precisions(folder: str) -> str:
    """Return what the same weights score in fp32 and in bf16, and the difference over the same images."""
    store, lines = Store(ROOT / folder), []
    for (method, backbone, refine), own in load_results(ROOT / folder).groupby(["method", "backbone", "refine"]):
        fp32, bf16 = sorted(own.record, key=lambda record: record["spec"]["protocol"]["precision"], reverse=True)
        ((split, found),) = compare(fp32, bf16, store)["splits"].items()
        points, low, high = (100 * value for value in found["difference"])
        scores = [f"{100 * score:.1f}" for score in found["miou"]]
        name = f"{method} {backbone.removeprefix('timm:')}" + (f" +{refine}" if refine != "none" else "")
        lines.append([name, *scores, f"{points:+z.1f} [{low:z.1f} to {high:z.1f}]"])
    return (
        tabulate(lines, ["method", f"{split}, fp32", f"{split}, bf16", "points"], "pipe", disable_numparse=True) + "\n"
    )


def fields(folder: str) -> str:
    """Return each field of a protocol, what it means, and by how much it moved the held-out score."""
    rows = shared(load_results(ROOT / folder))
    rows = rows[rows.split == rows.split.iloc[-1]]
    base = rows[rows.change == ""].set_index(["model", "seed"]).miou
    rows = rows.assign(points=[100 * (row.miou - base[row.model, row.seed]) for row in rows.itertuples()])
    models = sorted(set(rows.model))
    lines = []
    for name, meaning in _meanings().items():
        own = rows[[change.partition("=")[0].partition(".")[0] == name for change in rows.change]]
        moved = [_range(own[own.model == model].points.tolist()) for model in models]
        lines.append([f"`{name}`", meaning, *moved])
    return tabulate(lines, ["field", "meaning", *models], "pipe") + "\n"


def steps(folder: str) -> str:
    """Return by how many points each step of Table 1 moves the held-out score, in the paper and here, seed by seed."""
    rows = load_results(ROOT / folder)
    rows = rows[rows.split == "val"]
    printed = {score.label: score.value for score in published(Registry(), "vit-pcm") if _of_table_1(score)}
    printed["CAM"] = next(
        score.value for score in published(Registry(), "vit-pcm")
        if (score.table.name, score.label, score.network, score.metric) == ("3", "CAM", "ViT-S/16", "miou")
    )  # fmt: skip
    whole = {
        name: own for name, own in rows.groupby("protocol") if all(_is(own, **step).any() for step in STEPS.values())
    }
    lines = []
    for before, after in pairwise(STEPS):
        line = [f"{before} → {after}", f"{printed[after] - printed[before]:+.1f}"]
        for own in whole.values():
            moved = _moved(*(own[_is(own, **STEPS[name])] for name in (before, after)))
            up = "each seed" if (moved > 0).all() else "in the mean" if moved.mean() > 0 else "no"
            line += [_by_seed(moved), up]
        lines.append(line)
    names = [column for protocol in whole for column in (f"{protocol} (by seed)", "helps")]
    return tabulate(lines, ["step", "paper, ViT-S/16 val", *names], "pipe", disable_numparse=True) + "\n"


def changes(folders: str) -> str:
    """Return by how many points the corrected background, CRF and dropout of ViT-PCM move the held-out score."""
    folder, former = folders.split("+")
    now, then = (rows[rows.split == "val"] for rows in map(load_results, (ROOT / folder, ROOT / former)))
    whole = STEPS["L_MCE + L_ET + HV-BiLSTM"]
    ours = now[now.protocol == "vitpcm"]
    trained = {"epochs": 8, **whole}
    pairs = {
        "an image without background pixels gets none": [
            rows[_is(rows, **whole)] for rows in (now[now.protocol == "vitpcm-1"], ours)
        ],
        "maps for the CRF enlarged by half-pixel centres, not by corners": [
            ours[_is(ours, **(whole | {"refine": refine}))] for refine in (CORNERS, "crf:vitpcm")
        ],
        "dropout of the LSTM's inputs drawn at each step": [
            rows[_is(rows, **trained)] for rows in (then[then.protocol == "strict"], now[now.protocol == "strict"])
        ],
    }
    lines = []
    for name, (before, after) in pairs.items():
        moved = _moved(before, after)
        scores = [own.set_index("seed").miou[moved.index] for own in (before, after)]
        shown = [", ".join(f"{100 * value:.1f}" for value in own) for own in scores]
        lines.append([name, ", ".join(map(str, moved.index)), *shown, _by_seed(moved)])
    names = ["change", "seeds", "before", "after", "points (by seed)"]
    return tabulate(lines, names, "pipe", disable_numparse=True) + "\n"


def _moved(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """Return by how many points each seed that both have moved."""
    return (100 * (after.set_index("seed").miou - before.set_index("seed").miou)).dropna().sort_index()


def _by_seed(moved: pd.Series) -> str:
    return f"{moved.mean():+.1f} ({', '.join(f'{value:+.1f}' for value in moved)})"


def _of_table_1(score: Score) -> bool:
    return (score.table.name, score.network, score.heading) == ("1", "ViT-S/16", "val")


def _is(rows: pd.DataFrame, method: str, refine: str = "none", **settings: float) -> pd.Series:
    right = pd.Series([all(own.get(k) == v for k, v in settings.items()) for own in rows.settings], rows.index)
    return (rows.method == method) & (rows.refine == refine) & right


def printed(paper: list[Score], method: str, table: str) -> str:
    """Return the first score of a method that a table of the paper prints, before any refiner or of val."""
    wanted = ("bpm", "train") if table == "A" else ("segmentation", "val")
    scores = [
        score.printed for score in paper
        if (score.table.name, score.method, score.stage, score.split) == (table, method, *wanted)
    ]  # fmt: skip
    return scores[0] if scores else "–"


def here(own: pd.DataFrame, method: str) -> list[str]:
    """Return the best score of a method under the comparison's protocol, the mean over seeds, and its training."""
    rows = once(own[(own.method == method) & (own.split == "val") & (own.refine == "none")])
    if rows.empty:
        return ["–", "–"]
    best = scored(rows, "val")[0]
    seconds = fmean(map(training_seconds, best.rows.record))
    spread = f" ± {100 * best.rows.miou.std():.1f}" if len(best.rows) > 1 else ""
    return [f"{100 * best.miou:.1f}{spread}, {best.rows.timm.iloc[0].partition('.')[0]}", f"{seconds / 60:.0f} min"]


def _meanings() -> dict[str, str]:
    """Return the meaning of each field, from the docstring of `Protocol`."""
    text = (Protocol.__doc__ or "").partition("----------\n")[2]
    found = re.findall(r"^    (\w+) : .*\n((?:        .*\n?)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _range(shifts: list[float]) -> str:
    if not shifts:
        return "not varied"
    return f"{min(shifts):+.1f} to {max(shifts):+.1f}" if len(shifts) > 1 else f"{shifts[0]:+.1f}"


CORNERS = "crf:vitpcm(align_corners=True)"
STEPS: dict[str, dict[str, Any]] = {
    "CAM": {"method": "cam"},
    "L_MCE": {"method": "vitpcm", "equivariance": False, "hv_bilstm": False},
    "L_MCE + L_ET": {"method": "vitpcm", "equivariance": True, "hv_bilstm": False},
    "L_MCE + L_ET + HV-BiLSTM": {"method": "vitpcm", "equivariance": True, "hv_bilstm": True},
    "L_MCE + L_ET + HV-BiLSTM + CRF": {
        "method": "vitpcm", "equivariance": True, "hv_bilstm": True, "refine": "crf:vitpcm",
    },
}  # fmt: skip


def gains(folder: str) -> str:
    """Return what each refiner adds to each method."""
    return _all_of(refiner_gains(_ranked(folder)))


def walks(folders: str) -> str:
    """Return what the refiners of the first folder score by their settings, beside the same training unrefined."""
    every, own = _together(folders), load_results(ROOT / folders.partition("+")[0])
    trainings = {record["artefacts"]["fit"] for record in own.record}
    found = once(every[[record["artefacts"]["fit"] in trainings for record in every.record]])
    lines = [["none", "", f"{100 * miou:.1f}"] for miou in found[found.refine == "none"].miou]
    for name, rows in own.groupby([record["spec"]["protocol"]["refine"] for record in own.record], sort=False):
        settings = [record["spec"]["refiner"] for record in rows.record]
        usual = {key: mode(one.get(key) for one in settings) for key in set().union(*settings)}
        changed = [variant(one, {key for key in one if one[key] != usual[key]}) for one in settings]
        lines += [
            [f"`{name}`", text, f"{100 * miou:.1f}"] for text, miou in sorted(zip(changed, rows.miou, strict=True))
        ]
    return tabulate(lines, ["refiner", "changed", "val mIoU"], "pipe", disable_numparse=True) + "\n"


def orders(folder: str) -> str:
    """Return whether methods stand in the order that published tables have them in."""
    return _all_of(published_order(_ranked(folder), published(Registry())))


def sizes(folder: str) -> str:
    """Return how well regions are found without a refiner, by their size."""
    found = load_results(ROOT / folder)
    return _all_of(by_size(found[found.refine == "none"], Store(ROOT / folder)))


def _ranked(folder: str) -> Mapping[Stand, Ranking]:
    return rankings(load_results(ROOT / folder), Store(ROOT / folder))


def _all_of(tables: list[Table]) -> str:
    """Return tables without titles: the page says what they are of."""
    return "\n".join(markdown(table).partition("\n")[2].lstrip("\n") for table in tables)


def draw() -> None:
    """Draw the figures of pages."""
    docs, store = ROOT / "docs", Store(ROOT / COMPARISON)
    draw_sensitivity(shared(load_results(ROOT / "results/reference/sensitivity")), docs / "sensitivity.png")
    draw_sensitivity(shared(_of_same_trainings(UNDER_PROTOCOLS)), docs / "sensitivity-short.png")
    results = load_results(ROOT / COMPARISON)
    rows = coloured(once(results[(results.split == "val") & (results.refine == "none")]))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for drawn in (
            ranking_figure(rows, store, place / "ranking", "val"),
            cost_figure(rows, place / "cost", "val"),
            parameters_figure(results, [], place / "parameters", rows.dataset.iloc[0], "val"),
        ):
            if drawn.files:
                shutil.copy(drawn.files[0], docs)
