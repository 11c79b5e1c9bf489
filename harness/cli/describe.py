"""`harness describe`: what a name means, with its settings and their defaults."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Annotated, Any

import typer
from rich.table import Table

from harness.cli.common import Json, Plugins, output, print_json
from harness.cli.list_ import kind_of


def command(
    kind: Annotated[
        str, typer.Argument(help="method, backbone, dataset, protocol, experiment, refiner, crf, deeplab or published.")
    ],
    name: Annotated[str, typer.Argument()],
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Describe one name, with its settings.

    A method, backbone, dataset, protocol, experiment, refiner, CRF preset, recipe of a verifier or publication.
    """
    from harness.registry import CODE_KINDS, Registry

    registry = Registry(plugins or ())
    entry = registry.entry(kind_of(kind, registry), name)
    loaded = registry.load(entry.kind, name)
    facts: dict[str, Any] = {"kind": entry.kind, "name": name, "origin": entry.origin, "file": entry.source.name}
    settings: dict[str, Any] = {}
    if entry.kind in CODE_KINDS:
        facts["about"] = inspect.getdoc(loaded)
        facts |= {key: value for key in _FACTS if (value := getattr(loaded, key, None)) not in (None, "", ())}
        facts["version"] = registry.source_version(entry.kind, name)
        fields = getattr(loaded, "Params", None)
        settings = {key: field.get_default() for key, field in fields.model_fields.items()} if fields else {}
    elif entry.kind == "protocol":
        from harness.protocol import Protocol
        from harness.strict import parse

        facts["about"] = entry.summary
        given = {"name": name, **loaded}
        full = parse(Protocol, given, source=entry.source).model_dump(mode="json", exclude={"name", "summary"})
        settings = {k: {"value": v, "from": entry.source.name if k in loaded else "default"} for k, v in full.items()}
    elif entry.kind == "published":
        from harness.report.published import published

        facts["about"] = entry.summary
        tables = Counter(score.table for score in published(registry, name))
        settings = {f"table {table.name}": f"{table.title}: {count} scores" for table, count in tables.items()}
    else:
        settings = dict(loaded)
    if as_json:
        print_json(facts | {"settings": settings})
        return
    out = output()
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        out.print(f"{key}: {text}", markup=False, highlight=False)
    if settings:
        table = Table("setting", "value", "from", box=None, pad_edge=False)
        for key, value in settings.items():
            origin = (
                value["from"]
                if isinstance(value, dict) and "from" in value
                else "default"
                if entry.kind in CODE_KINDS
                else ""
            )
            table.add_row(key, str(value["value"] if isinstance(value, dict) and "from" in value else value), origin)
        out.print(table)
    if entry.kind == "method":
        out.print(f"next: harness run --methods {name} --dry-run", highlight=False)


_FACTS = (
    "cite", "families", "supervision", "output", "background", "predicts_presence", "classes", "weights", "fit_split",
    "eval_splits", "training_splits", "subset", "note",
)  # fmt: skip
