"""Does this environment work? One check per thing that is known to go wrong, each with what mends it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes
    ----------
    name : str
    state : {"ok", "optional", "bad"}
        `optional` is something that only some commands need.
    finding : str
    mend : str
        What to do; empty when there is nothing to do.
    """

    name: str
    state: str
    finding: str
    mend: str = ""

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
    fits = sys.version_info[:2] == (3, 11)
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok" if fits else "bad", version, "" if fits else "make the environment with Python 3.11")


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
    mend = "pip install -c constraints.txt wsss-harness" if wrong else ""
    yield Check("requirements", "bad" if wrong else "ok", "; ".join(wrong) or "all there", mend)


def _torch() -> Iterator[Check]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    finding = f"{torch.__version__}, {', '.join(gpus) or 'no GPU: CPU only'}"
    driver = shutil.which("nvidia-smi") is not None
    mend = "install a CUDA build of torch to use the GPU" if driver and not gpus else ""
    yield Check("torch", "bad" if mend else "ok", finding, mend)


def _torchvision() -> Iterator[Check]:
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

    yield Check("ray", "ok", ray.__version__)


def _crf() -> Iterator[Check]:
    if importlib.util.find_spec("pydensecrf") is None:
        yield Check("pydensecrf", "optional", "not installed: no --refine crf", "pip install 'wsss-harness[crf]'")
        return
    importlib.import_module("pydensecrf.densecrf")
    both = _version("pydensecrf") and _version("pydensecrf2")
    mend = "pip uninstall pydensecrf pydensecrf2, then pip install 'wsss-harness[crf]'" if both else ""
    name = "pydensecrf2" if _version("pydensecrf2") else "pydensecrf"
    yield Check("pydensecrf", "bad" if both else "ok", f"{name} {_version(name)}", mend)


def _prepare() -> Iterator[Check]:
    """Find what `harness prepare` reads other people's formats with."""
    for name, without in (("scipy", "no `harness prepare voc12`"), ("pycocotools", "no `harness prepare coco14`")):
        found = _version(name)
        mend = "" if found else "pip install 'wsss-harness[prepare]'"
        yield Check(name, "ok" if found else "optional", found or f"not installed: {without}", mend)


def _verifier() -> Iterator[Check]:
    """Find the mm-packages: either the maintained distributions or none."""
    pairs = {name: (f"onedl-{name}", name) for name in ("mmengine", "mmcv", "mmsegmentation")}
    have = {name: [d for d in distributions if _version(d)] for name, distributions in pairs.items()}
    doubled = [name for name, found in have.items() if len(found) > 1]
    install = "pip install 'wsss-harness[verify]'"
    if doubled:
        both = " ".join(d for name in doubled for d in have[name])
        yield Check("mmsegmentation", "bad", f"doubled: {both}", f"pip uninstall {both}, then {install}")
    elif not all(have.values()):
        yield Check("mmsegmentation", "optional", "not installed: no verification", install)
    else:
        found = [d for distributions in have.values() for d in distributions]
        foreign = [d for d in found if not d.startswith("onedl-")]
        versions = ", ".join(f"{d} {_version(d)}" for d in found)
        mend = f"pip uninstall {' '.join(foreign)}, then {install}" if foreign else ""
        yield Check("mmsegmentation", "bad" if foreign else "ok", versions, mend)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    mend = "free some space, or use --results on another disk" if free < 2 else ""
    yield Check("disk", "bad" if mend else "ok", f"{free:.0f} GiB free here, {os.cpu_count()} cores", mend)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
