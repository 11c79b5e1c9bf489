"""The numbers of the paper's tables, read from its text without a look at `configs/published`.

`python -m tests.paper TEXT` writes them to `tests/golden/vit-pcm-tables.tsv`, a line for each score.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

GOLDEN = Path(__file__).parent / "golden" / "vit-pcm-tables.tsv"


class Printed(NamedTuple):
    """A score as it is printed."""

    table: str
    label: str
    network: str
    heading: str
    number: str


def scores(text: str) -> list[Printed]:
    """Return every score of every table in the text, whose tables are paragraphs with tabs beside their captions."""
    paragraphs = [paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", text)]
    found = []
    for number, paragraph in enumerate(paragraphs):
        if "\t" in paragraph:
            beside = [*paragraphs[number - 1 : number], *paragraphs[number + 1 : number + 2]]
            name = next(match[1] for near in beside if (match := re.match(r"Table (\w):", near)))
            found += _table(name, [[_plain(cell) for cell in line.split("\t")] for line in paragraph.splitlines()])
    return found


def _table(name: str, lines: list[list[str]]) -> list[Printed]:
    headings, *rows = lines
    found, first = [], ""
    for row in rows:
        first = row[0] = row[0] or first  # an empty first cell repeats the one above
        cells = list(zip(headings, row, strict=False))
        label = " + ".join(
            heading if cell == "✓" else cell
            for heading, cell in cells
            if cell == "✓" or heading in ("Method", "Localization")
        )
        network = next((cell for heading, cell in cells if heading == "Backbone"), "")
        for heading, cell in cells:
            if number := re.match(r"\d+\.\d+", cell):  # what follows a plus sign is a difference
                above = heading if heading.startswith("ViT-") else ""  # Table D names them over its columns
                found.append(Printed(name, label, network or above, heading, number[0]))
    return found


def _plain(cell: str) -> str:
    """Drop mark-up, references and mathematics' backslashes."""
    cell = re.sub(r"</?\w+>|\[\d+\]|\\mathcal|[${}]", " ", cell)
    return re.sub(r"\s+", " ", cell.replace(" _ ", "_")).strip()


def read_golden() -> list[Printed]:
    """Return the scores that were read from the text."""
    return [Printed(*line.split("\t")) for line in GOLDEN.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    lines = ["\t".join(score) for score in scores(Path(sys.argv[1]).read_text("utf-8"))]
    GOLDEN.write_text("\n".join(lines) + "\n", "utf-8")
