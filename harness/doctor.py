"""Does this environment work? One check per thing that is known to go wrong, each with its remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

_TORCH = "pip install -c constraints.txt torch torchvision"
# Other distributions of the same modules. They overwrite one another's files, so repairing begins without any.
_RIVALS = {
    "mmengine": ("mmengine", "mmengine-lite"),
    "mmcv": ("mmcv", "mmcv-lite", "mmcv-full"),
    "mmsegmentation": ("mmsegmentation",),
}
# In a process of its own: what the mm-packages print and warn of on import is no part of a diagnosis.
_PROBE = """
import sys
try:
    from harness.deeplab.model import build
    from harness.deeplab.recipe import load_recipe
    from harness.registry import Registry
    build(load_recipe("toy", Registry()), 2)
except Exception as error:
    error = error.__cause__ or error
    sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes
    ----------
    name : str
    state : {"ok", "optional", "bad"}
        `optional` is something that only some commands need.
    finding : str
    remedy : str
        What to do; empty when there is nothing to do.
    """

    name: str
    state: str
    finding: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the fields."""
        return asdict(self)


def examine() -> list[Check]:
    """Run every check; none raises."""
    found = []
    for check in (_python, _requirements, _torch, _torchvision, _timm, _ray, _crf, _prepare, _verifier, _disk):
        try:
            found += list(check())
        except Exception as error:
            found.append(Check(check.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}"))
    return found


def _python() -> Iterator[Check]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    version = ".".join(map(str, sys.version_info[:3]))
    remedy = "" if fits else "make the environment with Python 3.11, 3.12 or 3.13"
    yield Check("python", "ok" if fits else "bad", version, remedy)


def _requirements() -> Iterator[Check]:
    """Compare what is installed with what the distribution asks for."""
    wrong = []
    for text in importlib.metadata.requires("wsss-harness") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version or 'missing'} (needs {requirement.specifier})")
    remedy = "pip install -c constraints.txt wsss-harness" if wrong else ""
    yield Check("requirements", "bad" if wrong else "ok", "; ".join(wrong) or "all there", remedy)


def _torch() -> Iterator[Check]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    finding = f"{torch.__version__}, {', '.join(gpus) or 'no GPU: CPU only'}"
    imported = torch.__version__.partition("+")[0]
    known = [version for version in _versions("torch") if version.partition("+")[0] != imported]
    driver = shutil.which("nvidia-smi") is not None
    if known:
        remedy = f"pip uninstall torch, until none is left; then {_TORCH}"
        yield Check(
            "torch", "bad", f"doubled: {torch.__version__} is imported, pip knows {', '.join(known)} too", remedy
        )
    elif driver and not gpus:
        yield Check("torch", "bad", finding, "install a CUDA build of torch to use the GPU")
    else:
        yield Check("torch", "ok", finding)


def _torchvision() -> Iterator[Check]:
    import torch

    own = [Requirement(text) for text in importlib.metadata.requires("torchvision") or []]
    fits = next((it.specifier for it in own if it.name == "torch"), SpecifierSet())
    if not fits.contains(torch.__version__, prereleases=True):
        finding = f"{_version('torchvision')} is for torch {fits}, and torch is {torch.__version__}"
        yield Check("torchvision", "bad", finding, _TORCH)
        return
    from harness.torchvision_ops import ensure_importable

    declared = ensure_importable()
    import torchvision

    how = "its compiled part does not fit this torch; two operators are declared instead" if declared else "complete"
    yield Check("torchvision", "ok", f"{torchvision.__version__}, {how}")


def _timm() -> Iterator[Check]:
    from harness.backbones import Weights, build_backbone

    build_backbone("test_vit", Weights("random"))
    yield Check("timm", "ok", f"{_version('timm')}, builds a backbone")


def _ray() -> Iterator[Check]:
    import ray

    from harness.run.cluster import sockets_problem

    problem = sockets_problem()
    yield Check("ray", "bad" if problem else "ok", problem or ray.__version__, "set RAY_TMPDIR=/tmp" if problem else "")


def _crf() -> Iterator[Check]:
    if importlib.util.find_spec("pydensecrf") is None:
        yield Check("pydensecrf", "optional", "not installed: no --refine crf", "pip install 'wsss-harness[crf]'")
        return
    importlib.import_module("pydensecrf.densecrf")
    both = _version("pydensecrf") and _version("pydensecrf2")
    remedy = "pip uninstall pydensecrf pydensecrf2, then pip install 'wsss-harness[crf]'" if both else ""
    name = "pydensecrf2" if _version("pydensecrf2") else "pydensecrf"
    yield Check("pydensecrf", "bad" if both else "ok", f"{name} {_version(name)}", remedy)


def _prepare() -> Iterator[Check]:
    """Find what `harness prepare` reads other people's formats with."""
    for name, without in (("scipy", "no `harness prepare voc12`"), ("pycocotools", "no `harness prepare coco14`")):
        found = _version(name)
        remedy = "" if found else "pip install 'wsss-harness[prepare]'"
        yield Check(name, "ok" if found else "optional", found or f"not installed: {without}", remedy)


def _verifier() -> Iterator[Check]:
    """Find the mm-packages: the maintained distributions in the versions that were tried, or none at all."""
    wanted = [r for r in map(Requirement, importlib.metadata.requires("wsss-harness") or []) if _is_of(r, "verify")]
    rivals = [name for names in _RIVALS.values() for name in names if _version(name)]
    have = [r.name for r in wanted if _version(r.name)]
    unfit = [r for r in wanted if not all(map(r.specifier.contains, _versions(r.name))) or r.name not in have]
    finding = ", ".join(f"{name} {' and '.join(_versions(name))}" for name in (*have, *rivals))
    install = "pip install 'wsss-harness[verify]'"
    again = f"pip uninstall {' '.join([*have, *rivals])}, then {install}"
    if not finding:
        yield Check("mmsegmentation", "optional", "not installed: no verification", install)
    elif rivals:
        doubled = any(f"onedl-{module}" in have for module, names in _RIVALS.items() if set(names) & set(rivals))
        how = "doubled" if doubled else "not the maintained ones"
        yield Check("mmsegmentation", "bad", f"{how}: {finding}", again)
    elif unfit:
        needs = ", ".join(f"{r.name}{r.specifier}" for r in unfit)
        yield Check("mmsegmentation", "bad", f"{finding} (needs {needs})", again)
    elif reason := _no_network():
        remedy = "pip uninstall opencv-python, then pip install opencv-python-headless" if "libGL" in reason else again
        yield Check("mmsegmentation", "bad", f"{finding}, but no DeepLabV2: {reason}", remedy)
    else:
        yield Check("mmsegmentation", "ok", f"{finding}, builds a DeepLabV2")


def _no_network() -> str:
    """Return why no DeepLabV2 can be built here; empty if one can."""
    command = [sys.executable, "-c", _PROBE]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=300)  # noqa: S603
    said = probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"]
    return said[-1] if probe.returncode else ""


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = "free some space, or use --results on another disk" if free < 2 else ""
    yield Check("disk", "bad" if remedy else "ok", f"{free:.0f} GiB free here, {os.cpu_count()} cores", remedy)


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _versions(name: str) -> list[str]:
    """Return the versions of a distribution that stand in the folder that it is imported from; two are one too many."""
    found = list(importlib.metadata.distributions(name=name))
    return sorted({d.version for d in found if d.locate_file("") == found[0].locate_file("")})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
