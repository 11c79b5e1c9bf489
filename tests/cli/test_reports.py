"""`harness report` on the records that the docs are made from: every table and figure, in every format."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.results.store import Store

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
FIGURES = ("parameters", "classes", "confusion", "learning", "thresholds", "heatmaps", "qualitative", "extremes")


FOLDERS = sorted(folder.name for folder in REFERENCE.iterdir())


def report(here: Any, name: str, out: Path, *options: str) -> None:
    kind = ["sensitivity"] if name == "sensitivity" else []
    done = here("report", *kind, "--results", str(REFERENCE / name), "--out", str(out), "--no-figures", *options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FOLDERS)
def test_every_format_holds_every_table(name: str, here: Any, tmp_path: Path) -> None:
    out = tmp_path / "report"
    report(here, name, out, "--images", "0", "--format", "md,html,latex,csv,json")
    tables = json.loads((out / "report.json").read_text())
    assert tables
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for table in tables:
        assert f"### {table['title']}" in text
        assert len(table["rows"]) > 0
    sheets = [list(csv.reader(path.read_text().splitlines())) for path in sorted(out.glob("*.csv"))]
    assert sorted(map(len, sheets)) == sorted(1 + len(table["rows"]) for table in tables)
    assert (out / "report.tex").read_text().count(r"\toprule") == page.count('<section class="table"') == len(tables)
    assert all(record["key"] in page for record in Store(REFERENCE / name).records())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex: none is on the path")
@pytest.mark.parametrize("name", FOLDERS)
def test_latex_compiles(name: str, here: Any, tmp_path: Path) -> None:
    report(here, name, tmp_path, "--format", "latex")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_figure_comes_from_what_is_kept_in_full(here: Any, tmp_path: Path) -> None:
    done = here("report", "--results", str(REFERENCE / "figures"), "--out", str(tmp_path))
    assert done.returncode == 0
    assert "not drawn" not in done.stderr
    for name in FIGURES:
        assert {path.suffix for path in tmp_path.glob(f"{name}-toy*")} == {".png", ".svg"}
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml") >= 1
