"""Checks of a dataset."""

from __future__ import annotations

from harness.check.case import IMAGES, Case
from harness.check.suite import NotApplicableError, check, must
from harness.check.watch import reseed
from harness.data.base import Dataset
from harness.data.index import index_split


@check("dataset", needs=("named",))
def prepares(case: Case) -> None:
    """A missing folder is reported before a run, not in the middle of it.

    Fix `prepare`; it may draw or unpack, and says what it misses.
    """
    if case.plugin.needs_root and case.root is None:
        raise NotApplicableError("it needs its folder: --root DIR")
    case.open()


@check("dataset", needs=("prepares",))
def classes_named(case: Case) -> None:
    """Index 0 is the background in every mask, and 255 is not labelled.

    Classes = ('background', 'cat', …), each once, at most 255.
    """
    classes = case.dataset.classes
    sound = classes[:1] == ("background",) and len(set(classes)) == len(classes) <= 255
    must(sound, f"classes are {', '.join(map(str, classes[:4]))}, …")


@check("dataset", needs=("prepares",))
def splits_exist(case: Case) -> None:
    """A plain run trains on one and scores the others.

    Let fit_split, eval_splits and training_splits name what `splits` returns.
    """
    dataset = case.dataset
    for split in (dataset.fit_split, *dataset.eval_splits):
        must(split in dataset.splits(), f"there is no split '{split}': {', '.join(dataset.splits())}")
    known = dataset.fit_split in dataset.training_splits
    must(known, f"fit_split '{dataset.fit_split}' is not among training_splits")


@check("dataset", needs=("splits_exist",))
def images_open(case: Case) -> None:
    """Every image has a mask of its size that holds its classes, and image labels; a run looks before it starts.

    See the message: the file, and what is wrong with it.
    """
    _digests(case.dataset)


@check("dataset", needs=("images_open",))
def content_is_stable(case: Case) -> None:
    """Content stands in the key: images that change make every score new.

    Draw from a seed of the image's own, and list ids in a fixed order.
    """
    reseed(3)  # the first drawing began from other generators
    must(_digests(case.dataset) == _digests(case.open()), "opened twice, it holds other images")


def _digests(dataset: Dataset) -> list[str]:
    splits = dict.fromkeys((dataset.fit_split, *dataset.eval_splits))
    return [
        index_split(dataset, split, label_source=dataset.label_source, masks=dataset.has_masks, limit=IMAGES).digest
        for split in splits
    ]
