from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests go side by side

TINY = [
    "--backbones", "timm:test_vit", "--limit", "8", "--set", "*.image_size=64", "--set", "*.inference_size=64",
    "--set", "*.epochs=2", "--set", "*.batch_size=4",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests go side by side, those of a file stay together, and all that need Ray in their process."""
    for item in items:
        needs_ray = "ray_once" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray else item.path.name))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own: the toy images are drawn once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def toy(cache: Path) -> Path:
    """The folder of the toy dataset."""
    from harness.data.toy import Toy
    from harness.inputs import open_dataset

    return open_dataset(Toy, None).root


@pytest.fixture(scope="session")
def ray_once(toy: Path) -> Iterator[None]:
    """Ray, started once for all tests that schedule in this process, where the environment names a dataset's folder."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_HARNESS_ROOT", str(toy))  # workers inherit it, and no stage may find it
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
        )
    yield
    ray.shutdown()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def harness(tmp_path: Path) -> Run:
    """Run the command line as a process of its own, in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "harness"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_once: None) -> Run:
    """Run the command line in this process, in an empty folder, on the Ray that was started once."""
    monkeypatch.chdir(tmp_path)
    return partial(run_here, tmp_path)


def run_here(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, in a folder."""
    from harness.cli import main

    printed, said, status = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(said):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["harness", *arguments])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(list(arguments), status, printed.getvalue(), said.getvalue())
