"""What `harness doctor` says of environments that go wrong, each feigned by what pip would leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

EXAMINE = """
import json, sys
from harness import doctor
print(json.dumps([check.as_dict() for check in getattr(doctor, sys.argv[1])()]))
"""
AGAIN = "pip uninstall onedl-mmengine onedl-mmcv onedl-mmsegmentation"
INSTALL = "then pip install 'wsss-harness[verify]'"


def examined(check: str, first_on_the_path: Path) -> dict[str, str]:
    """Run one check in a process that sees a folder of feigned distributions before all others."""
    path = os.pathsep.join([str(first_on_the_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, "-c", EXAMINE, check],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    (only,) = json.loads(found.stdout)
    return only  # type: ignore[no-any-return]


def feign(folder: Path, name: str, number: str, *requires: str) -> None:
    about = folder / f"{name.replace('-', '_')}-{number}.dist-info"
    about.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}", *(f"Requires-Dist: {r}" for r in requires)]
    (about / "METADATA").write_text("\n".join(lines) + "\n")


def test_the_maintained_distributions_build_a_network(tmp_path: Path) -> None:
    found = examined("_verifier", tmp_path)
    assert found["state"] == "ok", found
    assert found["finding"].startswith(f"onedl-mmengine {version('onedl-mmengine')}, onedl-mmcv ")
    assert found["finding"].endswith("builds a DeepLabV2")


@pytest.mark.parametrize(("name", "number"), [("mmcv", "2.1.0"), ("mmcv-lite", "2.1.0"), ("mmsegmentation", "1.2.2")])
def test_the_original_beside_the_maintained_one(tmp_path: Path, name: str, number: str) -> None:
    feign(tmp_path, name, number)
    found = examined("_verifier", tmp_path)
    assert found["state"] == "bad"
    assert found["finding"].startswith("doubled: ")
    assert f"{name} {number}" in found["finding"]
    assert found["remedy"] == f"{AGAIN} {name}, {INSTALL}"


def test_a_version_that_was_not_tried(tmp_path: Path) -> None:
    feign(tmp_path, "onedl-mmcv", "2.0.0")
    found = examined("_verifier", tmp_path)
    assert found["state"] == "bad"
    assert "onedl-mmcv 2.0.0" in found["finding"]
    assert "(needs onedl-mmcv==2.3.6)" in found["finding"]
    assert found["remedy"] == f"{AGAIN}, {INSTALL}"


def test_two_versions_of_one_distribution_in_one_folder(tmp_path: Path) -> None:
    feign(tmp_path, "onedl-mmengine", "0.10.12")
    feign(tmp_path, "onedl-mmengine", "0.10.9")
    found = examined("_verifier", tmp_path)
    assert (found["state"], "onedl-mmengine 0.10.12 and 0.10.9" in found["finding"]) == ("bad", True)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("No module named 'mmcv._ext'", f"{AGAIN}, {INSTALL}"),
        ("libGL.so.1: cannot open", "pip uninstall opencv-python, then pip install opencv-python-headless"),
    ],
)
def test_an_mmcv_that_does_not_import(tmp_path: Path, error: str, remedy: str) -> None:
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text(f"raise ImportError({error!r})\n")
    found = examined("_verifier", tmp_path)
    assert found["state"] == "bad"
    assert found["finding"].endswith(f"but no DeepLabV2: ImportError: {error}")
    assert found["remedy"] == remedy


def test_a_torch_that_pip_does_not_know(tmp_path: Path) -> None:
    import torch

    feign(tmp_path, "torch", "2.4.1")
    found = examined("_torch", tmp_path)
    assert found["finding"] == f"doubled: {torch.__version__} is imported, pip knows 2.4.1 too"
    assert found["remedy"].startswith(
        "pip uninstall torch, until none is left; then pip install -c constraints.txt torch"
    )


@pytest.mark.parametrize("wanted", ["9.0.0", "2.4.0"])
def test_a_torch_too_old_or_too_new_for_torchvision(tmp_path: Path, wanted: str) -> None:
    import torch

    feign(tmp_path, "torchvision", "0.99.0", f"torch (=={wanted})")
    found = examined("_torchvision", tmp_path)
    assert found["state"] == "bad"
    assert found["finding"] == f"0.99.0 is for torch =={wanted}, and torch is {torch.__version__}"
    assert found["remedy"] == "pip install -c constraints.txt torch torchvision"


def test_a_torch_older_than_the_harness_needs(tmp_path: Path) -> None:
    feign(tmp_path, "torch", "2.4.1")
    found = examined("_requirements", tmp_path)
    assert (found["state"], found["finding"]) == ("bad", "torch 2.4.1 (needs >=2.6)")
