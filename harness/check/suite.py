"""What a check is, what comes of it, and the suite of all checks of one plugin."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.check.case import BACKBONES, Case
from harness.check.watch import changed, restored, state
from harness.errors import HarnessError, UserError, closest
from harness.registry import CODE_KINDS, Entry, Registry

_MODULES = ("declared", "model", "scored", "conduct", "refined", "drawn", "whole")


class BrokenContractError(Exception):
    """What a check found."""


def must(holds: object, finding: str) -> None:
    """Raise what a check found, unless something holds."""
    if not holds:
        raise BrokenContractError(finding)


class NotApplicableError(Exception):
    """Why a check has nothing to look at."""


@dataclass(frozen=True)
class Check:
    """One thing that a plugin must keep.

    Attributes
    ----------
    name : str
    kinds : tuple of str
        Of plugins: `method`, `refiner`, `dataset`.
    needs : tuple of str
        The checks without which this one makes no sense.
    function : callable
        Raises what it finds; its docstring is the reason for the check and, in a second paragraph, the remedy.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    function: Callable[[Any], None]

    @property
    def reason(self) -> str:
        """Why it matters."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())

    @property
    def remedy(self) -> str:
        """What to do if it fails."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[2].split())


@dataclass(frozen=True)
class Result:
    """What came of a check.

    Attributes
    ----------
    plugin, check : str
    state : {"passed", "failed", "expected", "skipped", "blocked"}
        `expected` is a failure that the plugin declares; `blocked` waits for another check to pass.
    finding : str
        What was found, or why there was nothing to look at.
    reason, remedy : str
        Why the check is there, and what fixes a failure.
    """

    plugin: str
    check: str
    state: str
    finding: str
    reason: str
    remedy: str


_CHECKS: list[Check] = []


def check(*kinds: str, needs: tuple[str, ...] = ()) -> Callable[[Callable[[Any], None]], Any]:
    """Declare a function to be a check of some kinds of plugins; its name is the check's."""

    def declare(function: Callable[[Any], None]) -> Callable[[Any], None]:
        before = () if function.__name__ == "imports" else ("imports",)
        _CHECKS.append(Check(function.__name__, kinds, (*before, *needs), function))
        return function

    return declare


def checks(kind: str) -> list[Check]:
    """Return the checks of a kind of plugin, in the order in which they run."""
    order = [importlib.import_module(f"harness.check.{name}").__name__ for name in _MODULES]
    own = [one for one in _CHECKS if kind in one.kinds]
    return sorted(own, key=lambda one: order.index(one.function.__module__))  # whichever was imported first


class Suite:
    """The checks of one plugin; each runs once, when its result is first asked for.

    Parameters
    ----------
    cases : list of Case
        A method's, one for each family of backbones that it takes; of other plugins one.
    """

    def __init__(self, cases: list[Case]) -> None:
        self.cases = cases
        self.entry = cases[0].entry
        self.checks = {one.name: one for one in checks(self.entry.kind)}
        self._results: dict[str, Result] = {}

    @property
    def expected(self) -> Mapping[str, str]:
        """The failures that the plugin declares, with its reasons."""
        return {} if self.entry.broken else self.cases[0].plugin.expected_failures

    def results(self) -> Iterator[Result]:
        """Run every check."""
        yield from (self.result(name) for name in self.checks)

    def result(self, name: str) -> Result:
        """Run a check, and those that it needs."""
        if name not in self._results:
            one = self.checks[name]
            state, finding = self._judge(one)
            if name in self.expected and state in ("passed", "failed"):
                state, finding = ("expected", self.expected[name]) if state == "failed" else ("failed", _PASSES)
            self._results[name] = Result(self.entry.name, name, state, finding, one.reason, one.remedy)
        return self._results[name]

    def _judge(self, one: Check) -> tuple[str, str]:
        for needed in one.needs:
            before = self.result(needed)
            if before.state == "skipped":
                return "skipped", before.finding
            if before.state in ("failed", "blocked"):
                return "blocked", f"needs `{needed}`"
        try:
            for case in self.cases:
                with restored(), redirect_stdout(sys.stderr):
                    one.function(case)
        except NotApplicableError as why:
            return "skipped", str(why)
        except BrokenContractError as error:
            return "failed", str(error)
        except (Exception, SystemExit) as error:
            return "failed", _explain(error, self.entry.source)
        return "passed", ""


_PASSES = "declared in expected_failures, but it passes: take it out there"


def _explain(error: BaseException, source: Path) -> str:
    """Return an exception in one line, with the last line of the plugin that it went through."""
    text = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == source]
    where = f" ({source.name}:{lines[-1]})" if lines else ""
    return " ".join(text.split())[:300] + where


def suites(
    target: str,
    plugins: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> list[Suite]:
    """Return a suite for every plugin that a name, a file or a folder stands for.

    Parameters
    ----------
    target : str
        A name; or a path, for all that is defined there.
    plugins : tuple of str
        Further plugins, as given with `--plugins`.
    settings : mapping, optional
        By `METHOD.KEY`, for a method that cannot do with the small sizes of the checks.
    root : Path, optional
        The folder of a dataset that needs one.

    Raises
    ------
    UserError
        If there is nothing of that name, or nothing to check in the file.
    """
    path = ""
    if Path(target).is_file() or (Path(target) / "__init__.py").is_file():
        path = str(Path(target).absolute())
    given = [str(Path(plugin).absolute()) if Path(plugin).exists() else plugin for plugin in plugins]
    registry = Registry([*given, path] if path else given)
    with restored():
        before = state()
        entries = [entry for kind in CODE_KINDS for entry in registry.entries(kind)]
        effects = [name for name in changed(before) if name != "environment"]  # libraries set some of it
    chosen = [entry for entry in entries if (entry.origin == path if path else entry.name == target)]
    if not chosen:
        raise UserError(
            f"no plugin '{target}', and no file or package of that name: {closest(target, [e.name for e in entries])}"
        )
    about = (effects if path else [], settings or {}, root)
    return [Suite([Case(registry, entry, *about, family) for family in _families(registry, entry)]) for entry in chosen]


def _families(registry: Registry, entry: Entry) -> tuple[str, ...]:
    """Return the families of backbones on which a plugin is examined; one without a name where there is none."""
    if entry.kind != "method" or entry.broken:
        return ("",)
    families = registry.load("method", entry.name).families
    known = tuple(family for family in families if family in BACKBONES) if isinstance(families, tuple) else ()
    return known or ("",)
