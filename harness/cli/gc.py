"""`harness gc`: what no record needs, listed or removed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from harness.cli.common import DEFAULT_RESULTS, Json, Results, messages, output, print_json, split_stages

if TYPE_CHECKING:
    from harness.results.gc import Waste


def command(
    results: Results = DEFAULT_RESULTS,
    keep: Annotated[
        str | None, typer.Option(help="Stages whose artefacts done cells keep: mask,evaluate; default all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List or remove what no record needs.

    Artefacts of no done cell, abandoned work, dead leases. Removes nothing while a run or a merge is at work.
    """
    from harness.results.gc import STAGES, find_waste, in_use, measure, remove_waste
    from harness.results.store import Store
    from harness.run.progress import scanning

    stages = split_stages(keep)
    kept = tuple(STAGES) if stages is None else stages
    store, console = Store(results), messages()
    with scanning(console, "removing" if yes else "measuring") as scan:
        waste = remove_waste(store, kept, scan) if yes else measure(store, find_waste(store, kept), scan)
    total = sum(size for _, size in waste)
    if as_json:
        items = [
            {"path": str(found.path.relative_to(store.root)), "kind": found.kind, "why": found.why, "bytes": size}
            for found, size in waste
        ]
        print_json({"removed": yes, "bytes": total, "by_kind": _by_kind(waste), "items": items})
        return
    _show(waste)
    dropped = ", ".join(stage for stage in STAGES if stage not in kept)
    if dropped:
        console.print(
            f"without {dropped} the records stay, but another threshold, CRF or image asked of their cells computes "
            "these stages again", highlight=False
        )  # fmt: skip
    if not yes and (users := in_use(store)):
        keys = ", ".join(key[:8] for key in users)
        console.print(f"at work: {keys}; what they made and have not recorded yet is listed too", highlight=False)
    if not waste:
        console.print("nothing to remove", highlight=False)
    elif yes:
        console.print(f"removed: {decimal(total)}", highlight=False)
    else:
        console.print(f"{decimal(total)}, still there: the same with --yes removes it", highlight=False)


def _by_kind(waste: list[tuple[Waste, int]]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for found, size in waste:
        sizes[found.kind] += size
    return dict(sizes)


def _show(waste: list[tuple[Waste, int]]) -> None:
    """Print how much of what there is, and why it is not needed."""
    counts = Counter((found.kind, found.why) for found, _ in waste)
    sizes: Counter[tuple[str, str]] = Counter()
    for found, size in waste:
        sizes[found.kind, found.why] += size
    table = Table("what", "number", "size", "why", box=None, pad_edge=False)
    for (kind, why), count in counts.items():
        table.add_row(kind, str(count), decimal(sizes[kind, why]), why)
    if waste:
        output().print(table)
