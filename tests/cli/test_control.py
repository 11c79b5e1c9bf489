"""What a person does between runs: ask how long, run the failed again, get a number's command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from tests.conftest import TINY, Run

FLAKY = """
from wsss_methods.sanity import Random

class Flaky(Random):
    \"\"\"Fails as long as a file is there.\"\"\"
    name = "flaky"
    version = "1"
    def fit(self, model, data, session):
        import os
        if os.path.exists({trouble!r}):
            raise RuntimeError("trouble")
"""


def test_only_what_has_failed_is_run_again_if_asked(here: Run, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    (tmp_path / "flaky.py").write_text(FLAKY.format(trouble=str(trouble)))
    command = ["run", "--methods", "flaky,sanity-random", "--plugins", "flaky.py", "--limit", "4", "--json"]
    command += ["--set", "protocol.eval_splits=val"]
    first = here(*command)
    assert first.returncode == 1
    assert "failed: flaky" in first.stderr
    status = json.loads(here("status", "--json").stdout)
    assert status["cells"] == {"done": 1, "failed": 1}
    assert [failure["reason"] for failure in status["failures"]] == ["RuntimeError: trouble"]
    assert (status["runs"], status["running"]) == ([], [])
    trouble.unlink()
    more = [word.replace("sanity-random", "sanity-*") for word in command]
    again = here(*more, "--failed")
    assert again.returncode == 0, again.stderr
    assert [record["title"].partition("/")[0] for record in json.loads(again.stdout)] == ["flaky"]
    assert "none of these cells has failed" in here(*command, "--failed").stderr


def test_a_dry_run_says_how_long_it_takes_once_it_has_seen_the_like(here: Run) -> None:
    first = here("run", "--methods", "cam", *TINY, "--dry-run")
    assert "took before" not in first.stdout
    assert here("run", "--methods", "cam", *TINY).returncode == 0
    second = here("run", "--methods", "cam", *TINY, "--seeds", "0,1", "--dry-run")
    (line,) = [line for line in second.stdout.splitlines() if "as such stages took before" in line]
    assert re.match(r"about \d+ s of stages, and \d", line)
    assert "without" not in line  # every stage has a like


UNSURE = """
from wsss_methods.sanity import Random

class Unsure(Random):
    \"\"\"Raises when it is asked whether a cell makes sense.\"\"\"
    name = "unsure"
    version = "1"
    @classmethod
    def skip(cls, spec):
        raise KeyError("which")
"""


def test_a_dry_run_says_what_will_not_run_and_why(here: Run, tmp_path: Path) -> None:
    (tmp_path / "unsure.py").write_text(UNSURE)
    command = ["run", "--methods", "unsure,sanity-random", "--plugins", "unsure.py", "--limit", "4", "--dry-run"]
    rows = json.loads(here(*command, "--json").stdout)
    assert [(row["state"], row["why"]) for row in rows] == [("broken", "KeyError: 'which'"), ("to run", "")]
    assert "broken: KeyError: 'which'" in here(*command).stdout
    unfetched = json.loads(here(*command, "--dataset", "voc12", "--json").stdout)
    assert [(row["state"], row["why"]) for row in unfetched] == [("broken", "KeyError: 'which'"), ("needs files", "")]


def test_the_command_of_a_record_makes_the_same_cell(here: Run) -> None:
    settings = ["--set", "cam.lr=0.0003", "--set", "protocol.class_gating.held_out=none", "--seeds", "3"]
    ran = here("run", "--methods", "cam", "--refine", "crf:irn", "--json", *TINY, *settings)
    (record,) = json.loads(ran.stdout)
    shown = here("show", record["key"][:8], "--reproduce").stdout.splitlines()
    assert any(line.startswith("pip install torch==") for line in shown)
    assert "+cpu" not in shown[-2]
    command = shlex.split(shown[-1])
    assert command[0] == "harness"
    (planned,) = json.loads(here(*command[1:], "--dry-run", "--json").stdout)
    assert (planned["key"], planned["state"]) == (record["key"], "done")


def test_bad_times_and_stages_are_told_apart(here: Run) -> None:
    for options, problem in (
        (["--time-limit", "soon"], "--time-limit soon: expected a length of time, as 90s, 30m or 2h"),
        (["--keep", "masks"], "--keep: unknown stage 'masks': did you mean 'mask'?"),
        (["--resources", "fit.cpu=2"], "unknown resource 'fit.cpu': did you mean 'fit.cpus'?"),
    ):
        refused = here("run", "--methods", "cam", *options)
        assert (refused.returncode, problem in refused.stderr) == (2, True), refused.stderr
