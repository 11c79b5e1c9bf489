"""Tables in every format: for a terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from harness.report.tables import Table

if TYPE_CHECKING:
    from harness.report.figures.canvas import Drawn

BOUNDS = "floors and ceilings"  # stands over the rows of a table that are no methods
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "→": r"$\to$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
_HEAD = r"""\documentclass{article}
\usepackage[a4paper,landscape,margin=1.5cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,adjustbox}
\begin{document}
\setlength{\parindent}{0pt}
"""


def show(table: Table, console: Console) -> None:
    """Print a table on a terminal."""
    rich = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns:
        rich.add_column(Text(column), overflow="fold")
    for number, row in enumerate(table.rows):
        if number == table.first_bound:
            rich.add_row(Text(BOUNDS, "italic"))
        rich.add_row(*(Text(cell, "bold" if (number, n) in table.bold else "") for n, cell in enumerate(row)))
    console.print(rich)
    for note in table.notes:
        console.print(note, markup=False, highlight=False)


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    cells = [
        [f"**{_md(cell)}**" if (r, c) in table.bold else _md(cell) for c, cell in enumerate(row)]
        for r, row in enumerate(table.rows)
    ]
    if table.first_bound > 0:
        cells.insert(table.first_bound, [f"*{BOUNDS}*"])
    text = tabulate(cells, list(map(_md, table.columns)), "pipe", disable_numparse=True)
    notes = "".join(f"\n- {_md(note)}" for note in table.notes)
    return f"### {_md(table.title)}\n\n{text}\n{notes}\n"


def _md(text: str) -> str:
    """Return a text as Markdown shows it: what would be a table's edge, HTML, emphasis or the end of a line is none."""
    return re.sub(r"([|<>`])|(?<!\w)([*_])|([*_])(?!\w)", r"\\\g<0>", " ".join(text.split("\n")))


def figure_markdown(drawn: Drawn) -> str:
    """Return a figure that lies beside the text, with what it leaves out."""
    parts = [f"![{drawn.caption}]({drawn.files[0].name})\n\n{drawn.caption}\n"]
    return "\n".join([*parts, *(f"- left out: {reason}\n" for reason in drawn.left_out)])


def latex(tables: Sequence[Table]) -> str:
    """Return tables as a LaTeX document that compiles as it is; each may be taken out on its own (booktabs)."""
    return _HEAD + "\n\\bigskip\n".join(map(_latex_table, tables)) + "\\end{document}\n"


def csv_text(table: Table) -> str:
    """Return a table as CSV, without its notes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
    return text.getvalue()


def json_text(tables: Sequence[Table]) -> str:
    """Return tables as JSON: a list of objects with title, columns, rows and notes."""
    found = [{"title": t.title, "columns": t.columns, "rows": t.rows, "notes": t.notes} for t in tables]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def csv_files(tables: Sequence[Table]) -> dict[str, str]:
    """Return each table as CSV, by the name of its file."""
    taken: set[str] = set()
    return {f"{file_name(table.title, taken)}.csv": csv_text(table) for table in tables}


def file_name(title: str, taken: set[str]) -> str:
    """Return a title as the name of a file, and add it to those that are taken: no other table gets it."""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80]
    name = next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
    taken.add(name)
    return name


# What each format makes of the tables of a report: files by name.
FORMATS: dict[str, Callable[[Sequence[Table]], dict[str, str]]] = {
    "md": lambda tables: {"report.md": "\n".join(map(markdown, tables))},
    "latex": lambda tables: {"report.tex": latex(tables)},
    "csv": csv_files,
    "json": lambda tables: {"report.json": json_text(tables)},
}


def _latex_table(table: Table) -> str:
    rows = [
        " & ".join(rf"\textbf{{{_tex(c)}}}" if (r, n) in table.bold else _tex(c) for n, c in enumerate(row)) + r" \\"
        for r, row in enumerate(table.rows)
    ]
    if table.first_bound > 0:
        rows.insert(table.first_bound, r"\midrule")
    lines = [
        rf"\textbf{{{_tex(table.title)}}}\par\smallskip",
        r"\begin{adjustbox}{max width=\linewidth,max totalheight=0.85\textheight}",
        rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\toprule",
        " & ".join(map(_tex, table.columns)) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}",
        r"\end{adjustbox}\par\smallskip", *(rf"{{\footnotesize {_tex(note)}\par}}" for note in table.notes),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
