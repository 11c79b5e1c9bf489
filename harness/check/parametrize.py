"""The suite as a parametrised test of pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.check.suite import Suite, suites


def parametrize_with_checks(
    *targets: str, settings: Mapping[str, Any] | None = None, root: Path | None = None
) -> Callable[..., Any]:
    """Return a decorator that gives a test its argument `check` once for each check of some plugins.

    Parameters
    ----------
    *targets : str
        Names, or paths; a path is as seen from where pytest was started.
    settings, root
        As for `suites`.

    Raises
    ------
    UserError
        If a name or a path stands for no plugin.
    """
    import pytest

    found = [suite for target in targets for suite in suites(target, settings=settings, root=root)]
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(partial(_run, suite, name), id=f"{suite.entry.name}-{name}")
            for suite in found
            for name in suite.checks
        ],
    )


def _run(suite: Suite, name: str) -> None:
    """Run a check; end as pytest ends a test that fails, is expected to fail, or is skipped."""
    import pytest

    result = suite.result(name)
    if result.state == "failed":
        pytest.fail(f"{result.finding}\nwhy: {result.reason}\nremedy: {result.remedy}", pytrace=False)
    if result.state == "expected":
        pytest.xfail(result.finding)
    if result.state != "passed":
        pytest.skip(result.finding)
