from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.page import floor, table
from benchmarks.row import Aim, Row, Setting
from benchmarks.run import MODULES, ON_GPU, benchmark, measure, setting


@pytest.fixture(scope="module")
def tiny() -> Iterator[Setting]:
    with setting(None, "cpu", 1, tiny=True) as at:
        yield at


SLOW = ("peak_memory", "gpu", "equivariance", "confusion", "trivial_cells", "warm_run")  # seconds each, or processes


ALL = [pytest.param(module, marks=[pytest.mark.slow] * (module in SLOW)) for module in (*MODULES, *ON_GPU)]


@pytest.mark.parametrize("module", ALL)
def test_both_sides_make_the_same(module: str, tiny: Setting, ray_once: None) -> None:
    result = benchmark(tiny, [module], lambda row: None)
    assert result["rows"]
    for row in result["rows"]:
        assert row["equal"]
        assert all(value > 0 for values in row["values"].values() for value in values)
        assert row["what"] in table([row])
        assert all(name in floor(row) for name in row["values"])


def test_a_row_whose_sides_differ_gives_no_number() -> None:
    def agree(made: object) -> str:
        assert made == {"a": 1, "b": 1}
        return "one"

    row = Row("x", "", "", "s", {"a": lambda: (1.0, 1), "b": lambda: (1.0, 2)}, lambda values: 1.0, Aim("<=", 1), agree)
    with pytest.raises(AssertionError):
        measure(row, 1)


def test_sides_take_turns_and_a_first_turn_does_not_count() -> None:
    turns = []

    def side(name: str, values: Iterator[float]) -> tuple[float, str]:
        turns.append(name)
        return next(values), name

    ours, theirs = iter([9.0, 1.0, 2.0, 6.0]), iter([9.0, 2.0, 2.0, 2.0])
    row = Row(
        "x", "", "", "s", {"a": lambda: side("a", ours), "b": lambda: side("b", theirs)},
        lambda values: values["a"] / values["b"], Aim(">=", 1), lambda made: "nothing",
    )  # fmt: skip
    found = measure(row, 3)
    assert turns == ["a", "b"] * 4
    assert found["ratios"] == [0.5, 1.0, 3.0]
    assert (found["median"], found["met"]) == (1.0, True)


def test_every_module_of_the_folder_is_in_the_run() -> None:
    folder = Path(str(import_module("benchmarks").__file__)).parent
    named = {path.stem for path in folder.glob("*.py") if "def rows(" in path.read_text("utf-8")}
    assert named == {*MODULES, *ON_GPU}
