from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from harness.store import Store

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
