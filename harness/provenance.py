"""What made a number: versions, machine, source, command; no names of people, hosts or home folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"(^|=|,)/(?:.*?/)?([^/]+?)/?(?=$|,[^/,]*=|,/)")  # of several, each
_PLAIN = re.compile(r"[\w@%+=:,./…-]+")  # words that a shell takes as they are
_PACKAGES = (
    "wsss-harness", "torch", "torchvision", "timm", "numpy", "pillow", "ray", "pydensecrf2", "pydensecrf",
    "onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv", "mmsegmentation", "mmengine", "mmcv",
)  # fmt: skip


@cache
def environment() -> dict[str, Any]:
    """Return the versions and the source of this process."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "source": _git(),
    }


def device_name(device: str) -> str:
    """Return the name of the device that a stage ran on."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return _cpu()


def command_line() -> str:
    """Return the command; of an absolute path only the name is kept."""
    words = (_ABSOLUTE.sub(r"\1…/\2", word) for word in sys.argv[1:])
    return " ".join(["harness", *(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in words)])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {os.cpu_count()} cores"


def _git() -> dict[str, Any] | None:
    """Return commit and dirtiness if the package runs from a git checkout."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = _run_git(folder, "rev-parse", "HEAD")
        dirty = bool(_run_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _run_git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
