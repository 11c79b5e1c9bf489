"""BibTeX of what stands in a report."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from harness.errors import HarnessError
from harness.registry import Registry, configs

_ENTRY = re.compile(r"^@\w+\{([^,]+),.*?^\}$", re.MULTILINE | re.DOTALL)
_HARNESS = """@software{wsssharness,
  title = {wsss-harness: a benchmark harness for weakly supervised semantic segmentation},
  author = {{The wsss-harness authors}}, year = {2026}
}"""


def bibtex(results: pd.DataFrame, registry: Registry) -> str:
    """Return BibTeX entries of this harness and of the methods and refiners of some records.

    A plugin's `cite` that no entry is known for stands as a comment.
    """
    plugins = {("method", record["spec"]["method"]) for record in results.record}
    plugins |= {("refiner", refine.partition(":")[0]) for refine in results.refine if refine != "none"}
    keys = sorted({key for kind, name in plugins if (key := _cite(registry, kind, name))})
    known = references()
    return "\n\n".join([_HARNESS, *(known.get(key, f"% no entry for {key}") for key in keys)]) + "\n"


def references() -> dict[str, str]:
    """Return the BibTeX entries of `configs/references.bib` by key."""
    text = (configs() / "references.bib").read_text("utf-8")
    return {found[1]: found[0] for found in _ENTRY.finditer(text)}


def _cite(registry: Registry, kind: str, name: str) -> str:
    try:
        plugin: Any = registry.load(kind, name)
    except HarnessError:  # of a plugin that is not given any more
        return ""
    return str(getattr(plugin, "cite", ""))
