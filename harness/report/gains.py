"""What refiners add: the same maps with and without one, over the same images."""

from __future__ import annotations

from collections.abc import Mapping

from harness.report.dataframe import without_verification
from harness.report.notes import Marks, refiner_notes, refiner_words, seed_notes
from harness.report.ranking import Difference, Ranked, Ranking, Stand
from harness.report.tables import Table
from harness.results.record import Record
from harness.strict import canonical

_NOTES = [
    "points of mIoU that a refiner adds to the masks without it, and the 95 % interval of that over the same images",
    "of several seeds: the mean over those that both have",
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
    bare = {_maps(one.series.record): one for one in ranking.methods if one.series.refiner == "none"}
    gains: dict[str, dict[str, tuple[Ranked, Difference]]] = {}  # of the same maps: what each refiner adds to them
    for one in ranking.methods:
        maps, name = _maps(one.series.record), one.series.refiner
        if name != "none" and maps in bare and (gain := one.above(bare[maps])):
            gains.setdefault(maps, {})[name] = one, gain
    columns = [
        name
        for name in dict.fromkeys(one.refiner for one in ranking.series)
        if any(name in own for own in gains.values())
    ]
    words, marks = refiner_words(columns), Marks()
    headings = [words[name] + marks.of(refiner_notes(name, words[name])) for name in columns]
    table = Table(title, ["method", *headings], [])
    for row, (maps, own) in enumerate(gains.items()):
        base = bare[maps].series
        table.rows.append([base.label, *("–" for _ in columns)])
        for name, (refined, gain) in own.items():
            column = 1 + columns.index(name)
            fewer = marks.of(seed_notes(gain.seeds, base.rows.seed))
            table.rows[row][column] = f"{gain.points:+z.1f} [{gain.low:z.1f} to {gain.high:z.1f}]{fewer}"
            table.sources[row, column] = [
                key for one in (base, refined.series) for key in one.rows.key[one.rows.seed.isin(gain.seeds)]
            ]
    table.notes = [*_NOTES, *marks.notes]
    return table


def _maps(record: Record) -> str:
    """Return what distinguishes maps of classes: all of a cell but its refiner, its seed and its verification."""
    spec = without_verification(record["spec"])
    protocol = {key: value for key, value in spec["protocol"].items() if key != "refine"}
    kept = {key: value for key, value in spec.items() if key not in ("seed", "refiner", "protocol")}
    return canonical([kept, protocol, record["weights"]])
