"""What refiners add: the same maps with and without one, over the same images."""

from __future__ import annotations

from collections.abc import Mapping

from harness.report.dataframe import without_verification
from harness.report.notes import Marks, refiner_notes, refiner_words
from harness.report.ranking import Ranking, Stand
from harness.report.tables import Table
from harness.results.record import Record
from harness.strict import canonical

_NOTES = [
    "points of mIoU that a refiner adds to the masks without it, and the 95 % interval of that over the same images",
    "of the first seed of each method, which is the same with a refiner and without",
]


def refiner_gains(rankings: Mapping[Stand, Ranking]) -> list[Table]:
    """Return tables of what each refiner adds to each method.

    Parameters
    ----------
    rankings : mapping
        As `harness.report.ranking.rankings` gives them; there is no table of one without a method that stands in it
        both with a refiner and without.
    """
    tables = [_table(stand.title("what refiners add"), ranking) for stand, ranking in rankings.items()]
    return [table for table in tables if table.rows]


def _table(title: str, ranking: Ranking) -> Table:
    refiners = [one.rows.refine.iloc[0] for one in ranking.series]
    pairs: dict[str, dict[str, int]] = {}  # of the same maps: the places of each refiner's masks in the ranking
    for place, one in enumerate(ranking.series):
        pairs.setdefault(_maps(one.record), {})[refiners[place]] = place
    known = [own for own in pairs.values() if "none" in own and len(own) > 1]
    columns = list(dict.fromkeys(name for name in refiners if name != "none" and any(name in own for own in known)))
    words, marks = refiner_words(columns), Marks()
    headings = [words[name] + marks.of(refiner_notes(name, words[name])) for name in columns]
    table = Table(title, ["method", *headings], [], notes=[*_NOTES, *marks.notes])
    for row, own in enumerate(known):
        bare = own["none"]
        table.rows.append([ranking.series[bare].label])
        for column, name in enumerate(columns, 1):
            if name not in own:
                table.rows[-1].append("–")
                continue
            points, low, high = ranking.differences[own[name], bare]
            table.rows[-1].append(f"{points:+z.1f} [{low:z.1f} to {high:z.1f}]")
            table.sources[row, column] = [ranking.series[place].record["key"] for place in (bare, own[name])]
    return table


def _maps(record: Record) -> str:
    """Return what distinguishes maps of classes: all of a cell but its refiner and its verification."""
    spec = without_verification(record["spec"])
    protocol = {key: value for key, value in spec["protocol"].items() if key != "refine"}
    kept = {key: value for key, value in spec.items() if key not in ("refiner", "protocol")}
    return canonical([kept, protocol, record["weights"]])
