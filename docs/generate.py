"""Write the tables of README and docs from the records in results/reference/.

A block between `<!-- table: FOLDER -->` and `<!-- /table -->` is replaced by the comparison tables of that folder.
`python docs/generate.py` rewrites; a test holds that there is nothing to rewrite.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.report.frame import load_results
from harness.report.tables import comparison, markdown

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "methods").glob("*/README.md"))]


def rewritten(text: str) -> str:
    """Return a page with its tables made anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_tables(block[2])}{block[3]}", text)


def _tables(folder: str) -> str:
    return "\n".join(markdown(table) for table in comparison(load_results(ROOT / folder)))


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
