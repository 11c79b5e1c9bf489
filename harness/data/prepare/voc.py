"""VOC 2012 and SBD: 1,464 and 1,449 images with VOC's masks, 9,118 more to train on with those of SBD."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

from harness.archive import open_archive
from harness.data.base import open_mask
from harness.data.prepare.job import Draft, Job, put_mask, read
from harness.data.voc import VOC_CLASSES
from harness.errors import EnvironmentUnfitError, UserError
from harness.files import hash_file, write_atomic

VOC, SBD = "VOCtrainval_11-May-2012.tar", "benchmark.tgz"
_MASKS = "SegmentationClassAug"
BUILT = f"{_MASKS} of VOC 2012 and SBD: VOC's masks where there are any"
FOUND = f"{_MASKS}, found in the folder"
_BROUGHT = ", sha256 "  # between the name of an archive of masks and its hash
_INSIDE_VOC, _INSIDE_SBD = "VOCdevkit/VOC2012/", "benchmark_RELEASE/dataset/"
_MAX_MASKS = 2_000_000_000  # bytes that a circulated archive of masks may unpack to

SPLITS = ("train", "train_aug", "val")
LABELS = "xml"


def home(root: Path) -> Path:
    """Return the folder that holds the images, or will."""
    for folder in (root, root / "VOC2012"):
        if (folder / "JPEGImages").is_dir() or (root.name, folder.name) == ("VOCdevkit", "VOC2012"):
            return folder
    return root / "VOCdevkit" / "VOC2012"


def name_masks(job: Job) -> str:
    """Return the name of the set of masks that will stand there: built, brought by the user, or found.

    Raises
    ------
    UserError
        If masks are there already, and they are not the ones that the user brings.
    """
    there = (job.home / _MASKS).is_dir()
    was = job.before.get("masks", {}).get("name", "")
    if job.masks:
        if not job.masks.is_file():
            raise UserError(f"no archive {job.masks}")
        wanted = f"{job.masks.name}{_BROUGHT}{hash_file(job.masks)}"
        if there and was != wanted:
            raise UserError(f"{job.home / _MASKS} holds other masks ({was or 'of unknown origin'}): remove it first")
        return wanted
    return (was or FOUND) if there else BUILT


def repair_options(masks: str) -> str:
    """Return the options of the command that repairs a dataset with masks of some name."""
    if masks in (_MASKS, FOUND):
        return f"; it leaves masks alone that it has not made: to have them made, remove {_MASKS} first"
    archive, brought, _ = masks.partition(_BROUGHT)
    return f" --masks {shlex.quote(archive)}" if brought else ""


def make(job: Job) -> None:
    """Unpack the images, make the masks of `train_aug` and its list.

    Raises
    ------
    UserError
        If an archive is wrong.
    EnvironmentUnfitError
        If scipy is missing, or an archive cannot be fetched.
    """
    origin = name_masks(job)
    if origin == BUILT:
        _need_scipy()
    voc = job.archive(VOC, (_INSIDE_VOC,))
    if not job.unpack(voc, lambda name: job.home / name.removeprefix(_INSIDE_VOC)):
        raise UserError(f"{voc.path} holds no {_INSIDE_VOC}")
    draft = Draft(job.home / _MASKS)
    if job.before.get("masks", {}).get("name") != origin:
        draft.discard_part()
    if origin == BUILT:
        _build(job, draft.path)
    elif job.masks:
        _bring(job, job.masks, draft.path)
    draft.publish()
    held_out = set(_ids(job, "val"))
    aug = sorted({path.stem for path in draft.final.glob("*.png")} - held_out)
    write_atomic(job.home / "ImageSets" / "Segmentation" / "train_aug.txt", "".join(f"{name}\n" for name in aug))


def _build(job: Job, folder: Path) -> None:
    """Write VOC's masks, and SBD's where VOC has none."""
    own = {*_ids(job, "train"), *_ids(job, "val")}
    for image_id in sorted(own):
        put_mask(folder / f"{image_id}.png", open_mask(job.home / "SegmentationClass" / f"{image_id}.png"))
    sbd = job.archive(SBD, tuple(f"{_INSIDE_SBD}{part}" for part in ("cls/", "train.txt", "val.txt")))
    lists: dict[str, set[str]] = {}
    made: set[str] = set()

    def tasks() -> Iterator[tuple[bytes, Path]]:
        for file in sbd.files():
            job.scan("masks of SBD %", int(100 * file.share), 100)
            path = Path(file.name.removeprefix(_INSIDE_SBD))
            if path.suffix == ".txt":
                lists[path.stem] = set(read(sbd, file).decode().split())
            elif path.suffix == ".mat" and path.stem not in own:
                made.add(path.stem)
                yield read(sbd, file), folder / f"{path.stem}.png"

    problems = [problem for problem in job.every(convert, tasks()) if problem]
    problems += [f"{name}.txt is missing" for name in ("train", "val") if name not in lists]
    missing = set().union(*lists.values()) - own - made
    problems += [f"cls/{name}.mat is missing" for name in sorted(missing)]
    if problems:
        raise UserError(f"{sbd.path}: {len(problems)} problems: {'; '.join(problems[:20])}")


def convert(data: bytes, path: Path) -> str:
    """Write the class mask of one of SBD's .mat files as an indexed PNG; return what is wrong with it, if anything.

    Parameters
    ----------
    data : bytes
        Of a file that holds a struct `GTcls` with a field `Segmentation`, (H, W).
    path : Path
    """
    import scipy.io

    try:
        mask = scipy.io.loadmat(BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        return f"cls/{path.stem}.mat cannot be read: {str(error)[:80]}"
    if mask.ndim != 2 or not mask.size or mask.min() < 0 or mask.max() >= len(VOC_CLASSES):
        return f"cls/{path.stem}.mat holds no class indices"
    put_mask(path, mask.astype(np.uint8))
    return ""


def _bring(job: Job, archive: Path, folder: Path) -> None:
    """Unpack masks that somebody else has made, as they are: one folder of PNGs."""
    source = open_archive(archive, _MAX_MASKS, "is it an archive of masks?")
    seen: set[str] = set()

    def place(name: str) -> Path | None:
        path = Path(name)
        if path.suffix != ".png" or path.name.startswith("._"):
            return None
        if path.name in seen:
            raise UserError(f"{archive} holds {path.name} in two folders")
        seen.add(path.name)
        return folder / path.name

    if not job.unpack(source, place):
        raise UserError(f"{archive} holds no PNGs")
    unknown = [name for name in sorted(seen) if not (job.home / "JPEGImages" / name).with_suffix(".jpg").exists()]
    if unknown:
        raise UserError(f"{archive}: {len(unknown)} masks are of no image of VOC 2012, {unknown[0]} is the first")


def _need_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise EnvironmentUnfitError("SBD's .mat files need scipy: pip install 'wsss-harness[prepare]'")


def _ids(job: Job, split: str) -> list[str]:
    path = job.home / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.exists():
        raise UserError(f"{path} is missing: is {VOC} the official archive?")
    return path.read_text("utf-8").split()
