from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.results.store import Store

ROOT = Path(__file__).parent.parent


def _generator():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.mark.parametrize("page", GENERATOR.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_in_the_docs_is_what_its_records_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert GENERATOR.rewritten(text) == text, "run `python docs/generate.py`"


TUTORIAL = ROOT / "docs" / "add-a-method.md"
ELSEWHERE = ROOT / "docs" / "datasets.md"  # tried in tests/data/test_prepare_docs.py, on small archives
PAGES = [ROOT / "CONTRIBUTING.md", *(page for page in GENERATOR.pages() if page != ELSEWHERE)]
BLOCK = re.compile(r"^(?:<!-- needs: (.+) -->\n)?```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block that needs no more than an empty folder."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [(language, text) for needs, language, text in found if not needs]


def follow(page: Path, folder: Path) -> list[str]:
    """Do what a page says, in a folder, one block after the other; return what each has printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    printed = []
    for language, text in blocks(page):
        command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
        found = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert found.returncode == 0, f"{text}\n{found.stdout}\n{found.stderr}"
        printed.append(found.stdout)
    return printed


LONG = ("verification.md", "python-api.md")
TYPED = [pytest.param(p, marks=[pytest.mark.slow] * (p.name in LONG)) for p in PAGES if blocks(p) and p != TUTORIAL]


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_what_the_docs_say_to_type_works(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path)


@pytest.mark.slow
def test_the_tutorial_makes_a_short_method_that_stands_beside_vitpcm(tmp_path: Path) -> None:
    *_, report = follow(TUTORIAL, tmp_path)
    assert {"peak", "vitpcm"} <= {line.split()[0] for line in report.splitlines() if line.strip()}
    (shown,) = [text for language, text in blocks(TUTORIAL) if language == "python"]
    assert (tmp_path / "peak.py").read_text("utf-8") == shown
    assert len(shown.splitlines()) < 60


def test_reference_records_are_small_readable_and_nameless() -> None:
    folders = [marker.parent for marker in (ROOT / "results" / "reference").rglob("store.json")]
    assert folders
    for folder in folders:
        for record in Store(folder).records():
            path = folder / "records" / f"{record['key']}.json"
            assert path.stat().st_size < 20_000
            assert record["provenance"]["source"] is None or record["provenance"]["source"]["commit"]
            text = path.read_text("utf-8")
            assert not re.search(r'["= ]/\w', text), "an absolute path"
