"""`python -m benchmarks [ROW …]`: measure, print the table, write the JSON that docs/performance.md is made from."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    from benchmarks.page import about, floor, table
    from benchmarks.run import MODULES, ON_GPU, benchmark, setting
    from harness import provenance

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    rows = f"of {', '.join((*MODULES, *ON_GPU))}; unless given, all but the last, or that alone on a GPU"
    parser.add_argument("modules", nargs="*", metavar="ROW", help=rows)
    parser.add_argument("--root", type=Path, help="a VOCdevkit with train_aug, train and val; else drawn images")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for each side")
    parser.add_argument("--tiny", action="store_true", help="only see that the sides agree; its numbers mean nothing")
    parser.add_argument("--out", type=Path, help="the JSON; a run of all rows writes benchmarks/results/DEVICE.json")
    given = parser.parse_args()
    if unknown := set(given.modules) - {*MODULES, *ON_GPU}:
        parser.error(f"no row {', '.join(sorted(unknown))}: there are {', '.join((*MODULES, *ON_GPU))}")

    def show(row: dict[str, Any]) -> None:
        print(f"{table([row])}\n{floor(row)}", flush=True)

    with setting(given.root, given.device, given.threads, given.tiny) as at:
        result = benchmark(at, given.modules or (MODULES if given.device == "cpu" else ON_GPU), show)
    print(f"{table(result['rows'])}\n{about(result)}")
    device = "cpu" if given.device == "cpu" else re.sub(r"\W+", "-", provenance.device_name("cuda").lower())
    whole = not (given.modules or given.tiny)
    if out := given.out or (RESULTS / f"{device}.json" if whole else None):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"written to {out}; `python docs/generate.py` brings it into docs/performance.md")


if __name__ == "__main__":
    main()
