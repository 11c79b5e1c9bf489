"""The scheduler against real Ray: what fails stays with its cell, what is broken is made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.errors import EnvironmentUnfitError, HarnessError, UserError
from harness.inputs import Inputs
from harness.registry import Registry
from harness.results.record import Record
from harness.results.store import Store
from harness.run.cluster import gpu_index
from harness.run.plan import Plan, plan_cells
from harness.run.record import record_of
from harness.run.resources import Request, parse_resources, request
from harness.run.schedule import Options, Scheduler
from harness.run.watchdog import CUT, LOG_BYTES, too_much
from harness.run.worker import Outcome
from harness.spec import Grid, expand
from harness.stages import Node
from harness.stages.score import read_scores
from harness.stages.select import exhausted
from tests.stores import run_stages

FAULTY = Path(__file__).parent / "faulty_methods.py"
TIME_LIMIT = 5


class Notes:
    """A view that remembers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.outcomes: dict[str, Outcome] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.messages: list[str] = []

    def started(self, node: Node) -> None:
        self.begun.append(f"{node.stage} {node.label}")

    def progressed(self, node: Node, progress: dict[str, Any]) -> None:
        assert 0 <= progress["done"] <= progress["total"]

    def ended(self, node: Node, outcome: Outcome, seconds: float) -> None:
        self.outcomes[f"{node.stage} {node.label}"] = outcome

    def recorded(self, record: dict[str, Any]) -> None:
        self.records[record["title"].partition("/")[0]] = record

    def said(self, message: str) -> None:
        self.messages.append(message)


Ran = tuple[Notes, Plan, Store]
Execute = Callable[..., Ran]
TOGETHER = "raises,exits,quits,unsure,memory,large,hostile,good"
VAL = {"protocol.eval_splits": "val"}


def planned(results: Path, methods: str, plugins: bool = True, settings: dict[str, Any] | None = None) -> Plan:
    registry = Registry([str(FAULTY)] if plugins else [])
    grid = Grid(methods=tuple(methods.split(",")), backbones=("timm:test_vit",), limit=4, set=settings or {})
    return plan_cells(expand([grid], registry), Inputs(registry, results, None))


def execute_in(
    results: Path,
    methods: str,
    plugins: bool = True,
    settings: dict[str, Any] | None = None,
    view: Notes | None = None,
    **options: Any,
) -> Ran:
    store = Store(results, create=True)
    plan = planned(results, methods, plugins, settings)
    notes = view or Notes()
    Scheduler(plan, store, Options(**options), notes).run()
    return notes, plan, store


@pytest.fixture
def execute(tmp_path: Path, toy: Path, ray_once: None) -> Execute:
    return partial(execute_in, tmp_path / "results")


@pytest.fixture(scope="session")  # side by side, tests of other files may come in between
def together(tmp_path_factory: pytest.TempPathFactory, toy: Path, ray_once: None) -> Ran:
    """One run of methods that fail in every way beside one that works; several tests look at it."""
    return execute_in(tmp_path_factory.mktemp("together"), TOGETHER, settings=VAL)


def test_failures_are_records_and_the_rest_goes_on(together: Ran) -> None:
    notes, _, store = together
    found = {method: (record["status"], record.get("reason", "")) for method, record in notes.records.items()}
    assert found["good"] == ("done", "")
    assert found["raises"] == ("failed", "RuntimeError: no luck")
    assert found["exits"][0] == "failed"
    assert found["exits"][1].startswith("method 'exits' ended its process in fit, 3 times: os._exit or a crash")
    assert found["memory"] == ("oom", "OutOfMemoryError: CUDA out of memory")
    raised = notes.records["raises"]
    assert raised["failed_stage"] == "fit"
    assert "about to fail" in raised["tail"]
    assert "Traceback" in raised["tail"]
    assert notes.begun.count("fit exits s0") == 3
    assert notes.begun.count("fit raises s0") == 1
    assert sum("trying again" in message for message in notes.messages) == 2
    assert {record["status"] for record in store.records()} == {"done", "failed", "oom"}
    assert not list((store.root / "leases").glob("*.json"))

    again, _, _ = execute_in(store.root, "raises,good", settings=VAL)
    assert list(again.records) == ["raises"]
    assert again.begun == ["fit raises s0"]


def test_what_a_method_does_before_the_run_is_a_failure_of_its_cell(together: Ran) -> None:
    notes, _, _ = together
    assert notes.records["unsure"]["status"] == "failed"
    assert notes.records["unsure"]["reason"] == "KeyError: 'which'"
    quits = "method 'quits' raised SystemExit, expected results or an Exception"
    assert notes.records["quits"]["reason"] == quits
    assert notes.begun.count("fit quits s0") == 1


@pytest.mark.slow
def test_a_flood_of_output_is_cut_and_its_end_is_kept(execute: Execute) -> None:
    notes, _, store = execute("floods,good")
    record = notes.records["floods"]
    assert record["reason"] == "RuntimeError: enough"
    assert len(json.dumps(record)) < 20_000
    assert record["tail"].endswith("RuntimeError: enough")
    (log,) = store.root.glob("work/*/log.txt")
    assert log.stat().st_size < LOG_BYTES
    assert log.read_bytes().startswith(CUT)
    assert notes.records["good"]["status"] == "done"


def test_a_stage_beyond_its_memory_or_its_time_ends_and_the_rest_goes_on(execute: Execute) -> None:
    notes, _, store = execute(
        "grows,hangs,good",
        settings=VAL,
        resources={"fit.memory_gb": 1.0},
        time_limit=TIME_LIMIT,
    )
    record = notes.records["grows"]
    assert record["status"] == "oom"
    assert re.fullmatch(r"Out of memory: it held 1\.\d GiB, and was allowed 1\.0", record["reason"])
    assert "faulty_methods.py" in record["tail"]  # where it was
    assert notes.begun.count("fit grows s0") == 1
    assert notes.records["hangs"]["status"] == "timeout"
    assert notes.records["hangs"]["reason"] == f"longer than its limit of {TIME_LIMIT} s"
    assert notes.records["hangs"]["failed_stage"] == "fit"
    assert "faulty_methods.py" in notes.records["hangs"]["tail"]  # where it was
    assert notes.records["good"]["status"] == "done"
    assert not list((store.root / "leases").glob("*.json"))


def test_without_a_limit_only_what_fills_the_machine_must_end() -> None:
    gib = 2**30
    assert too_much(0, 40 * gib, 64 * gib, 7 * gib) == ""
    assert too_much(0, 30 * gib, 64 * gib, 1 * gib) == ""
    assert too_much(0, 40 * gib, 64 * gib, 6 * gib) == "it held 40.0 of the machine's 64.0 GiB, and 6.0 were left"
    assert too_much(2 * gib, 3 * gib, 64 * gib, 50 * gib) == "it held 3.0 GiB, and was allowed 2.0"


def test_a_plugin_s_stages_have_a_process_of_their_own(tmp_path: Path, toy: Path) -> None:
    plan = planned(tmp_path, "good,sanity-background")
    stages = {(node.stage, node.label.partition(" ")[0]) for key, node in plan.nodes.items() if key in plan.foreign}
    assert stages == {("fit", "good"), ("score", "good")}


def run_here(folder: Path, methods: str, settings: dict[str, Any]) -> tuple[Record, Plan, Store]:
    """Run one cell in this process, without Ray."""
    store = Store(folder / "results", create=True)
    plan = planned(store.root, methods, settings=settings)
    node, outcome = run_stages(plan)
    assert outcome.status == "done", (node.stage, outcome)
    return record_of(plan.cells[0], plan, store), plan, store


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, toy: Path) -> None:
    store = Store(tmp_path, create=True)
    node, outcome = run_stages(planned(store.root, "negative"))
    assert (node.stage, outcome.status) == ("score", "failed")
    refused = "method 'negative': `score` gave scores from -0.8 to -0.8, expected finite ones in [0, 1]"
    assert outcome.reason == refused


def test_without_memory_for_a_batch_it_is_halved_down_to_one_image(together: Ran) -> None:
    notes, _, _ = together
    record = notes.records["large"]
    assert record.get("reason", "") == ""
    scored = [stage for stage in record["stages"] if stage["stage"] == "score"]
    assert [stage["images_at_once"] for stage in scored] == [1]
    assert any("out of memory for 3 images at once: 1 from now on" in line for line in scored[0]["log"])


def test_the_first_failure_ends_the_run_where_that_is_asked_for(execute: Execute) -> None:
    notes, _, _ = execute("raises,good,negative", fail_fast=True, max_parallel=1)
    assert [record["status"] for record in notes.records.values()] == ["failed"]
    assert notes.messages == ["stopped at the first failure; what was finished is kept"]


def test_what_is_not_kept_goes_when_no_cell_needs_it(execute: Execute) -> None:
    notes, plan, store = execute("sanity-random", plugins=False, keep=("mask",))
    assert notes.records["sanity-random"]["status"] == "done"
    assert {node.stage for node in plan.nodes.values() if store.artefact(node.stage, node.key)} == {"mask"}
    again, _, _ = execute("sanity-random", plugins=False, keep=("mask",))
    assert not again.begun  # the record is there


def test_an_artefact_that_is_gone_is_made_again_with_what_it_came_from(execute: Execute) -> None:
    first, plan, store = execute("sanity-random", plugins=False)
    record = first.records["sanity-random"]
    for node in plan.nodes.values():
        if node.stage in ("fit", "score", "mask"):
            store.discard(node.stage, node.key)
    (store.root / "records" / f"{record['key']}.json").unlink()
    second, _, _ = execute("sanity-random", plugins=False)
    assert second.records["sanity-random"]["metrics"] == record["metrics"]


def test_resources_of_the_command_win_over_those_of_the_method() -> None:
    node = Node("fit", {}, {}, "", {"fit.cpus": 4, "score.cpus": 8, "fit.gpus": 0.5, "fit.memory_gb": 3})
    assert request(node, {}, threads=2, gpus=1) == Request(4, 0.5, 3)
    assert request(node, {"fit.cpus": 1}, threads=2, gpus=0) == Request(1, 0, 3)
    assert request(Node("mask", {}, {}), {}, threads=2, gpus=1) == Request(1, 0)
    assert request(Node("score", {}, {}), {}, threads=2, gpus=3) == Request(2, 1)
    assert parse_resources(["fit.gpus=0.5", "score.cpus=4"]) == {"fit.gpus": 0.5, "score.cpus": 4.0}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("fit.gpu=1", "unknown resource 'fit.gpu': did you mean 'fit.gpus'?"),
        ("fit.gpus=1.5", "fit.gpus 1.5: a stage runs on one GPU, expected 0 to 1; cells share out the others"),
        ("fit.gpus", "expected STAGE.QUANTITY=NUMBER, as fit.gpus=0.5"),
    ],
)
def test_wrong_resources_are_told_apart(given: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        parse_resources([given])


def test_more_than_there_is_is_said_before_it_is_waited_for(execute: Execute) -> None:
    with pytest.raises(EnvironmentUnfitError, match="fit asks for 64 cores and 0 GPUs, there are 2 and 0"):
        execute("good", resources={"fit.cpus": 64.0})
    with pytest.raises(EnvironmentUnfitError, match="4096 GiB of memory, no node has more than"):
        execute("good", resources={"fit.memory_gb": 4096.0})


def test_a_results_folder_that_cannot_be_written_ends_the_run_with_one_line(execute: Execute, tmp_path: Path) -> None:
    class Spoiler(Notes):
        def started(self, node: Node) -> None:
            if (tmp_path / "results" / "records").is_dir():
                (tmp_path / "results" / "records").rmdir()
                (tmp_path / "results" / "records").write_text("")

    with pytest.raises(HarnessError, match=r"cannot write to .*: Not a directory; what was finished is kept"):
        execute("sanity-random", plugins=False, view=Spoiler())


def test_maps_are_kept_as_they_are_read_whatever_their_strides(tmp_path: Path, toy: Path) -> None:
    record, _, store = run_here(tmp_path, "strided", VAL)
    score = store.need("score", record["artefacts"]["splits"]["val"]["score"])
    maps = [maps for _, maps, _ in read_scores(score, 0)]
    assert len(maps) == 4
    for kept in maps:
        np.testing.assert_array_equal(kept, np.broadcast_to(np.array([[0.0], [1.0]]), (5, 2, 3)))


def test_a_hostile_method_finds_no_way_to_a_mask_while_it_fits(together: Ran, toy: Path) -> None:
    assert toy.name == "toy-1"  # what the method looks for
    notes, plan, _ = together
    assert notes.records["hostile"].get("reason", "") == ""
    for node in plan.nodes.values():
        roots = plan.locations_of(node).roots
        assert bool(roots) == (node.stage in ("labels", "curve", "evaluate")), node


@pytest.mark.parametrize("rule", ["val_pixels", "val_image_labels"])
def test_the_epoch_is_chosen_on_held_out_images_and_that_is_said(tmp_path: Path, toy: Path, rule: str) -> None:
    small = {"late.image_size": 32, "late.inference_size": 32, "late.epochs": 4, "late.batch_size": 4}
    record, plan, store = run_here(tmp_path, "late", small | {"protocol.checkpoint": rule})
    choice = record["choice"]
    assert (choice["rule"], choice["split"], len(choice["scores"])) == (rule, "val", 4)
    assert choice["epoch"] == (2 if rule == "val_pixels" else 1)  # labels cannot tell the epochs apart
    (use,) = [use for use in record["ground_truth"] if use["for"] == "the choice of the epoch"]
    assert use["allowed"] is False
    chosen = load_file(store.need("select", record["artefacts"]["select"]).file("model.safetensors"))
    assert chosen["bias"][0].item() == choice["epoch"]
    for node in plan.nodes.values():
        if node.stage == "select":
            assert bool(plan.locations_of(node).roots) == (rule == "val_pixels")


def test_an_exhausted_patience_ends_the_search() -> None:
    assert [exhausted([0.1, 0.4, 0.3, 0.2][:n], 2) for n in (1, 2, 3, 4)] == [False, False, False, True]
    assert not exhausted([0.4, 0.3, 0.2], None)


def test_a_flipped_byte_is_found_and_made_again(execute: Execute) -> None:
    first, _, store = execute("sanity-oracle", plugins=False)
    before = first.records["sanity-oracle"]
    place = before["artefacts"]["splits"]["val"]
    score = store.need("score", place["score"])
    file = score.path / "scores-0000.safetensors"
    spoilt = bytearray(file.read_bytes())
    spoilt[-1] ^= 1
    file.write_bytes(bytes(spoilt))
    for key in [*place["mask"], *place["evaluate"]]:
        store.discard("mask", key)
        store.discard("evaluate", key)
    (store.root / "records" / f"{before['key']}.json").unlink()
    second, _, _ = execute("sanity-oracle", plugins=False)
    assert any("does not match its hash; it is computed again" in message for message in second.messages)
    assert second.records["sanity-oracle"]["metrics"] == before["metrics"]
    assert second.begun.count("score sanity-oracle s0 val") == 1
    assert file.read_bytes() != bytes(spoilt)


def test_stages_are_shared_and_nothing_starts_twice(execute: Execute) -> None:
    notes, _, _ = execute("sanity-background,sanity-random", plugins=False, max_parallel=1)
    assert len(notes.begun) == len(set(notes.begun))
    assert notes.begun.count("labels toy/val") == 1
    again, _, _ = execute("sanity-background,sanity-random", plugins=False)
    assert again.begun == []


def test_a_gpu_that_is_not_there_is_an_error_not_a_cpu(execute: Execute) -> None:
    with pytest.raises(EnvironmentUnfitError, match="Ray sees no GPU"):
        execute("sanity-background", plugins=False, device="cuda")


def test_a_gpu_is_found_by_what_ray_calls_it() -> None:
    assert gpu_index(1, None) == 1
    assert gpu_index("3", "0,3,2") == 1
