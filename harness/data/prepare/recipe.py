"""One command between nothing and a dataset: make what is missing, then check all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from harness.data.base import Dataset
from harness.data.coco import COCO14
from harness.data.download import disk_watched
from harness.data.prepare import coco, voc
from harness.data.prepare.check import Findings, check
from harness.data.prepare.job import Job, Scan
from harness.data.prepare.sources import read_sources
from harness.data.voc import VOC12
from harness.errors import UserError
from harness.results.lease import locked

RECIPES: dict[type[Dataset], ModuleType] = {VOC12: voc, COCO14: coco}
"""What each needs: `SPLITS`, `LABELS`, `home(root)`, `name_masks(job)`, `repair_options(masks)` and `make(job)`."""


class Preparation:
    """A dataset in a folder, to be made or checked.

    Parameters
    ----------
    dataset : type
    root : Path
    sources : Path, optional
        A file of addresses and checksums in place of the built-in one.
    scan : callable
        Called with (what, done, total).

    Raises
    ------
    UserError
        If it is no dataset that can be prepared.
    """

    def __init__(
        self,
        dataset: type[Dataset],
        root: Path,
        sources: Path | None = None,
        scan: Scan = lambda what, done, total: None,
    ) -> None:
        base = next((known for known in RECIPES if issubclass(dataset, known)), None)
        if base is None or dataset.prepared_as != dataset.name:
            advice = f": it is a part of {dataset.prepared_as}" if dataset.prepared_as else ""
            raise UserError(f"dataset {dataset.name} is not prepared by this command{advice}")
        self.dataset, self.root, self.scan = dataset, root, scan
        self.sources = read_sources(base.prepared_as, sources)
        self.recipe = RECIPES[base]
        self.home: Path = self.recipe.home(root)

    def check(self) -> Findings:
        """Look at all of it; see `harness.data.prepare.check`."""
        counts = {**self.dataset.official, **self.sources.counts}
        recipe = self.recipe
        with disk_watched(self.root):
            return check(self.dataset, self.root, self.home, recipe.SPLITS, recipe.LABELS, counts, self.scan)

    def make(
        self,
        archives: Path | None = None,
        masks: Path | None = None,
        workers: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Findings:
        """Make what is missing, write down what from, and check it; what is there and right is left alone.

        Parameters
        ----------
        archives : Path, optional
            A folder of archives that the user has; without one they are downloaded.
        masks : Path, optional
            An archive of masks that somebody else has made.
        workers : int, optional
            Processes; by default one per core.
        say : callable
            Called with a line.

        Raises
        ------
        UserError
            If an archive is wrong, the disk is too small, or a file may not be read or written.
        EnvironmentUnfitError
            If a package is missing, or no address gives an archive.
        """
        workers = workers or os.cpu_count() or 1
        job = Job(self.dataset, self.root, self.home, self.sources, archives, masks, workers, self.scan, say)
        try:
            with disk_watched(self.root), self._alone():
                if job.ended_before and not masks and not (found := self.check()).problems:
                    return found
                job.need_room()
                job.write_down({"masks": {"name": self.recipe.name_masks(job)}})
                self.recipe.make(job)
                found = self.check()
                job.write_down({"pictures": found.images, "masks": found.masks})
                return found
        except BlockingIOError:
            raise UserError(f"another `harness prepare` is at work in {self.root}") from None

    def _alone(self) -> AbstractContextManager[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        return locked(self.root / ".prepare.lock", wait=False)
