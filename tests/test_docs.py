from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.store import Store
from tests.conftest import Run

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


PAGES = [ROOT / "CONTRIBUTING.md", *GENERATOR.pages()]
BLOCK = re.compile(r"^(?:<!-- needs: (.+) -->\n)?```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not needs for needs, *_ in BLOCK.findall(page.read_text("utf-8")))],
    ids=lambda page: page.name,
)
def test_what_the_docs_say_to_type_works(page: Path, tmp_path: Path) -> None:
    """In an empty folder, one block after the other; a block that needs more than that says so."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for needs, language, text in BLOCK.findall(page.read_text("utf-8")):
        if not needs:
            command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
            environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert found.returncode == 0, f"{text}\n{found.stdout}\n{found.stderr}"


def test_the_tutorial_makes_a_short_method_that_stands_beside_vitpcm(here: Run, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "add-a-method.md").read_text("utf-8")
    blocks = {
        language: [text for _, kind, text in BLOCK.findall(page) if kind == language] for language in ("sh", "python")
    }
    (method,) = blocks["python"]
    assert len(method.splitlines()) < 60
    (tmp_path / "peak.py").write_text(method)
    (run,) = [text for text in blocks["sh"] if "test_vit" in text]
    for line in run.replace("\\\n", " ").splitlines():
        found = here(*shlex.split(line)[1:])
        assert found.returncode == 0, found.stderr
    rows = [line.split()[0] for line in found.stdout.splitlines() if line.strip()]
    assert {"peak", "vitpcm"} <= set(rows)


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
