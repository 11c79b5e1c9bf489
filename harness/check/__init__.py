"""The contract as a suite of checks: what a plugin must keep, so that its scores mean what all others' do.

`harness check mine.py` runs it, and so does a test of yours::

    from harness.check import parametrize_with_checks

    @parametrize_with_checks("mine.py")
    def test_contract(check):
        check()
"""

from __future__ import annotations

from harness.check.parametrize import parametrize_with_checks
from harness.check.suite import Check, Result, Suite, suites

__all__ = ["Check", "Result", "Suite", "parametrize_with_checks", "suites"]
