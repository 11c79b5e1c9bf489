"""`harness compare`: by how much two cells differ, and how sure that is."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Results, messages, output, print_json
from harness.run.progress import percent


def command(
    first: Annotated[str, typer.Argument(help="The first digits of a record's key; see `harness list runs`.")],
    second: Annotated[str, typer.Argument(help="Those of another.")],
    results: Results = DEFAULT_RESULTS,
    as_json: Json = False,
) -> None:
    """Compare two cells.

    Settings, scores, classes, and the images that changed most.
    """
    from harness.report.compare import compare
    from harness.results.store import Store

    store = Store(results)
    with messages().status("resampling images"):
        found = compare(store.find(first), store.find(second), store)
    if as_json:
        print_json(found)
        return
    out = output()
    for name in ("first", "second"):
        out.print(f"{name}: {found[name]['title']}  {found[name]['key']}", markup=False, highlight=False)
    table = Table("differs", "first", "second", box=None, pad_edge=False)
    for key, values in found["differs"].items():
        table.add_row(key.removeprefix("spec."), *(str(value) for value in values))
    out.print(table)
    for split, scores in found["splits"].items():
        out.print(f"\n{split}: mIoU {percent(scores['miou'][0], 2)} → {percent(scores['miou'][1], 2)}, "
                  f"difference {_signed(scores['difference'])}", markup=False, highlight=False)  # fmt: skip
        _show_split(scores)
    seeds = found["seeds"]
    out.print(
        f"\nintervals: 95 % over images drawn for both alike, one seed each ({seeds[0]}, {seeds[1]}): "
        "what another seed would change is not in them", markup=False, highlight=False,
    )  # fmt: skip


def _show_split(scores: dict[str, Any]) -> None:
    table = Table("class", "difference [95 %]", box=None, pad_edge=False)
    for name, change in scores["classes"].items():
        table.add_row(name, "–" if change is None else _signed(change))
    out = output()
    out.print(table)
    for name in ("gained", "lost"):
        images = ", ".join(f"{image_id} {100 * change:+.1f}" for image_id, change in scores[name].items())
        out.print(f"images that {name} most: {images or 'none'}", markup=False, highlight=False)


def _signed(change: list[float]) -> str:
    difference, low, high = (100 * value for value in change)
    return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"
