"""One page with everything: it needs no network, and without JavaScript its tables are still tables."""

from __future__ import annotations

import inspect
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.cell import flat
from harness.files import write_atomic
from harness.protocol import VERIFICATION
from harness.registry import Registry
from harness.report.figures.canvas import Drawn
from harness.report.formats import csv_text, file_name, latex, markdown
from harness.report.notes import forbidden, protocol_name
from harness.report.overlays import PageImage, Shown, beside, data_uri, embedded
from harness.report.page_data import drawers
from harness.report.tables import Table, unfinished
from harness.results.record import Record
from harness.strict import canonical

EMBEDDED = 36  # images, and figures, that stand in the page itself; the others are files beside it

_HERE = Path(__file__).parent
_SUFFIXES = {"CSV": ".csv", "Markdown": ".md", "LaTeX": ".tex"}
_NUMBER = re.compile(r"[+\-−]?\d")
_NOTHING = ("", "–", "not run")
_TONES = {
    "done": "good", "match": "good", "within": "good", "failed": "bad", "oom": "bad", "timeout": "bad", "off": "bad",
}  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    """A cell of a table: its text, in numeric columns what follows the number, and what it links to."""

    text: str
    rest: str
    link: str
    bold: bool
    tone: str
    badges: list[str]


@dataclass(frozen=True)
class _Section:
    """A table on the page."""

    anchor: str
    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[_Cell]]
    notes: list[str]
    badges: list[str]
    scored: bool
    first_bound: int
    downloads: list[tuple[str, str, str]]


class _Tips:
    """Badges by their anchor: what stands on them, and what they say when somebody points at them."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, Any]] = {}
        self._anchors: dict[str, str] = {}

    def protocol(self, record: Record) -> str:
        """Return the anchor of a record's protocol, which is a badge without its refiner and verifier."""
        apart = ("name", "summary", "source", "refine", *VERIFICATION)
        protocol = record["spec"]["protocol"]
        own = {name: value for name, value in protocol.items() if name not in apart}
        fields = {path: _text(value) for path, value in flat(own) if value not in ("", [], None)}
        label = protocol_name(record).removeprefix("protocol ")
        return self._anchor(label, "protocol", [protocol.get("summary", ""), protocol.get("source", "")], fields)

    def warning(self, record: Record) -> list[str]:
        """Return the anchor of a warning, if ground truth was used beyond the image labels of training splits."""
        texts = forbidden(record) if "ground_truth" in record else []
        return [self._anchor("ground truth", "warning", texts, {})] if texts else []

    def _anchor(self, label: str, kind: str, texts: list[str], fields: dict[str, str]) -> str:
        tip = {"label": label, "kind": kind, "texts": [text for text in texts if text], "fields": fields}
        anchor = self._anchors.setdefault(canonical(tip), f"tip-{len(self.all) + 1}")
        self.all[anchor] = tip
        return anchor


def write_page(
    path: Path, title: str, tables: list[Table], results: pd.DataFrame, images: Iterable[PageImage],
    figures: Iterable[Drawn] = (), citations: str = "", against: Mapping[str, Any] | None = None,
    methods: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write tables, records, figures and images as one HTML page; the same input gives the same bytes.

    Parameters
    ----------
    path : Path
        The page. Images after the first 36 are written to the folder `STEM-images` beside it, and loaded when
        somebody looks at them.
    title : str
    tables : list of Table
        Cells that were not scored need no table here: the page makes one from `results`.
    results : DataFrame
        As `load_results` gives it; the records that the tables' scores come from.
    images : iterable of Image
        Those with the same caption stand together.
    figures : iterable of Drawn
        Their files lie in the folder of the page; of those after the first 36 the page loads the files.
    citations : str
        BibTeX of what stands in the tables, to be downloaded.
    against, methods : mapping, optional
        See `harness.report.page_data.drawers`.
    """
    records = {record["key"]: record for record in results.record}
    tips = _Tips()
    taken: set[str] = set()
    sections = [_section(table, records, tips, taken) for table in tables]
    left = unfinished(results)
    folder = path.with_name(f"{path.stem}-images")
    galleries: dict[str, list[Shown]] = {}
    for number, image in enumerate(images):
        shown = embedded(image) if number < EMBEDDED else beside(image, folder, number)
        galleries.setdefault(shown.caption, []).append(shown)
    script = (_HERE / "page.js").read_text("utf-8")
    page = _environment().get_template("page.html.j2").render(
        title=title,
        summary=_summary(list(records.values()), tips),
        sections=sections,
        left=_section(left, records, tips, taken) if left else None,
        figures=[_figure(drawn, number < EMBEDDED) for number, drawn in enumerate(f for f in figures if f.files)],
        galleries=[(caption, _overlays(shown), shown) for caption, shown in galleries.items()],
        citations=_download("citations.bib", citations) if citations else None,
        tips=tips.all,
        records=drawers(records.values(), against, methods),
        style=(_HERE / "page.css").read_text("utf-8"),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    write_atomic(path, page)


def methods_of(results: pd.DataFrame, registry: Registry) -> dict[str, str]:
    """Return what the methods of some results are, in their own words; none of those that are not installed."""
    names = {record["spec"]["method"] for record in results.record} & {*registry.names("method")}
    return {name: inspect.getdoc(registry.load("method", name)) or "" for name in sorted(names)}


def page_title(experiments: Sequence[str], results: pd.DataFrame) -> str:
    """Return what a page shows: experiments, datasets, and the protocol if there is one for all."""
    specs = [record["spec"] for record in results.record]
    datasets = ", ".join(sorted({spec["dataset"] for spec in specs}))
    protocols = sorted({spec["protocol"]["name"] for spec in specs})
    under = (
        f"protocol{'s' * (len(protocols) > 1)} {', '.join(protocols)}" if len(protocols) < 4 else "several protocols"
    )
    return ": ".join(filter(None, [", ".join(experiments), f"{datasets}, {under}" if specs else ""])) or "Results"


def _figure(drawn: Drawn, embed: bool) -> tuple[str, str, tuple[str, ...]]:
    """Return where the smaller file of a figure is found, what it shows and what it leaves out."""
    file = min(drawn.files, key=lambda path: path.stat().st_size)
    source = data_uri("svg+xml" if file.suffix == ".svg" else "png", file.read_bytes()) if embed else quote(file.name)
    return source, drawn.caption, drawn.left_out


def _environment() -> Environment:
    """Return where templates come from: everything put into them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return environment


def _summary(records: list[Record], tips: _Tips) -> dict[str, Any]:
    """Return what the head of the page says of all records."""

    def names(field: str) -> list[str]:
        return sorted({str(record["spec"][field]) for record in records})

    states = Counter(record["status"] for record in records)
    return {
        "cells": len(records),
        "states": [(state, number, _tone(state)) for state, number in states.most_common()],
        "facts": {name: names(name[:-1]) for name in ("methods", "backbones", "datasets", "seeds")},
        "protocols": list(dict.fromkeys(tips.protocol(record) for record in records)),
        "warnings": sum(bool(tips.warning(record)) for record in records),
        "last": max((record["ended"] for record in records), default=""),
    }


def _section(table: Table, records: dict[str, Record], tips: _Tips, taken: set[str]) -> _Section:
    numeric = [_numeric([row[column] for row in table.rows]) for column in range(len(table.columns))]
    rows = []
    badges: dict[str, None] = {}
    scored = False
    for number, row in enumerate(table.rows):
        sources = [table.sources.get((number, column), []) for column in range(len(row))]
        known = [records[key] for key in dict.fromkeys(key for keys in sources for key in keys) if key in records]
        badges |= dict.fromkeys(tips.protocol(record) for record in known)
        scored = scored or any(record.get("metrics") for record in known)
        warnings = list(dict.fromkeys(tip for record in known for tip in tips.warning(record)))
        cells = []
        for column, text in enumerate(row):
            head, space, rest = text.partition(" ") if numeric[column] and _NUMBER.match(text) else (text, "", "")
            linked = sources[column] or ([] if column else [record["key"] for record in known])
            cells.append(
                _Cell(
                    head, space + rest, urlencode([("record", key) for key in linked if key in records]),
                    (number, column) in table.bold,
                    _tone(text) if table.columns[column] in ("status", "verdict") else "",
                    [] if column else warnings,
                )
            )  # fmt: skip
        rows.append(cells)
    name = file_name(table.title, taken)
    columns = list(zip(table.columns, numeric, strict=True))
    return _Section(
        f"table-{name}", table.title, columns, rows, table.notes, list(badges), scored, table.first_bound,
        _downloads(table, name),
    )  # fmt: skip


def _downloads(table: Table, stem: str) -> list[tuple[str, str, str]]:
    """Return a table as files that the page holds: the format's name, the file's and a link."""
    formats = (
        ("CSV", ".csv", csv_text(table)),
        ("Markdown", ".md", markdown(table)),
        ("LaTeX", ".tex", latex([table])),
    )
    return [(name, *_download(stem + suffix, text)) for name, suffix, text in formats]


def _download(name: str, text: str) -> tuple[str, str]:
    return name, f"data:text/plain;charset=utf-8;base64,{b64encode(text.encode()).decode()}"


def _numeric(texts: list[str]) -> bool:
    """Return whether a column holds numbers, whatever follows them."""
    filled = [text for text in texts if text not in _NOTHING]
    return bool(filled) and all(_NUMBER.match(text) for text in filled)


def _tone(text: str) -> str:
    return _TONES.get(text.partition(" ")[0], "plain")


def _overlays(shown: list[Shown]) -> list[str]:
    return list(dict.fromkeys(name for image in shown for name, _ in image.overlays))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
