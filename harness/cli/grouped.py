"""Help with options in groups, as plain text."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each `rich_help_panel` of its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by group, those without one last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            rest = "Arguments" if isinstance(parameter, TyperArgument) else "Options"
            line = parameter.get_help_record(ctx)
            if line:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or rest, []).append(line)
        for name in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])
