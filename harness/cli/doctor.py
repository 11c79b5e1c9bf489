"""`harness doctor`: does this environment work, and what fixes it."""

from __future__ import annotations

import sys

from rich.table import Table

from harness.cli.common import Json, messages, output, print_json


def command(as_json: Json = False) -> None:
    """Check whether this environment works.

    Packages, versions and devices; exit status 3 if something is unfit.
    """
    from harness.doctor import examine

    with messages().status("importing what it needs, and building a network"):
        checks = examine()
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        table = Table("", "check", "found", "remedy", box=None, pad_edge=False)
        for check in checks:
            table.add_row(
                {"ok": "✓", "optional": "·", "bad": "✗"}[check.state], check.name, check.finding, check.remedy
            )
        output().print(table)
        output().print("next: harness run --methods vitpcm,cam", highlight=False)
    if any(check.state == "bad" for check in checks):
        sys.exit(3)
