"""Whether methods stand in the order that a published table has them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from harness.bootstrap import interval
from harness.report.published import Score
from harness.report.ranking import Ranking, Stand
from harness.report.tables import Table

FEWEST = 4  # methods whose order says anything
_ORDERS = 10_000
_NOTES = [
    "rank correlation (Spearman) of published and measured mIoU before any refiner, of a method's best backbone each",
    "in brackets the 95 % interval over images, of the mean over seeds: other seeds, backbones and data are not in it",
    "by chance: the share of 10,000 random orders that agree with the published one as well or better",
]


def published_order(rankings: Mapping[Stand, Ranking], scores: Sequence[Score]) -> list[Table]:
    """Return how well published orders of methods hold.

    Parameters
    ----------
    rankings : mapping
        As `harness.report.ranking.rankings` gives them; there is no table of one that has fewer than four methods of
        each published table.
    scores : sequence of Score
    """
    tables = []
    for stand, ranking in rankings.items():
        columns = ["published", "methods", "rank correlation", "by chance", "order there", "order here"]
        table = Table(stand.title("published orders"), columns, [], notes=list(_NOTES))
        for name, there in _published(scores):
            best = _best_of(ranking, there)
            if len(best) >= FEWEST:
                table.sources[len(table.rows), 2] = [ranking.series[place].record["key"] for place in best.values()]
                table.rows.append([name, str(len(best)), *_agreement(ranking, best, there)])
        tables += [table] if table.rows else []
    return tables


def _published(scores: Sequence[Score]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each column of published tables that holds scores of unrefined masks, with the first of each method."""
    columns: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.method and (score.metric, score.stage) == ("miou", "bpm"):
            name = f"Table {score.table.name} ({score.table.publication}): {score.heading}, {score.split}"
            columns.setdefault(name, {}).setdefault(score.method, score.value)
    yield from columns.items()


def _best_of(ranking: Ranking, wanted: dict[str, float]) -> dict[str, int]:
    """Return where the best of each method stands in the ranking, of what is not refined."""
    best: dict[str, int] = {}
    for place, one in enumerate(ranking.series):
        method = one.record["spec"]["method"]
        if method in wanted and one.refiner == "none":
            best.setdefault(method, place)
    return best


def _agreement(ranking: Ranking, best: dict[str, int], there: dict[str, float]) -> list[str]:
    values = np.array([there[method] for method in best])
    places = list(best.values())
    measured = float(spearman(values, ranking.miou[None, places])[0])
    low, high = interval(spearman(values, ranking.drawn[:, places]))
    random = np.random.default_rng(0).permuted(np.tile(values, (_ORDERS, 1)), axis=1)
    chance = float((spearman(values, random) >= measured - 1e-9).mean())
    orders = (sorted(best, key=lambda method: -there[method]), list(best))
    return [f"{measured:z.2f} [{low:z.2f} to {high:z.2f}]", f"{100 * chance:.0f} %", *map(", ".join, orders)]


def spearman(first: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the rank correlation of values with each row of others; equal values share their mean rank.

    Parameters
    ----------
    first : ndarray
        (n,).
    others : ndarray
        (m, n).

    Returns
    -------
    ndarray
        (m,) in [-1, 1]; not a number where all values are equal.
    """
    own = pd.Series(first).rank().to_numpy()
    rows = pd.DataFrame(others).rank(axis=1).to_numpy()
    own, rows = own - own.mean(), rows - rows.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = rows @ own / np.sqrt((own**2).sum() * (rows**2).sum(1))
    return found
