"""What a plan reads, each opened and checked once: datasets, splits, weight files, folders that were brought along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.data.base import IGNORE, Dataset
from harness.data.index import SplitIndex, index_split
from harness.data.toy import cache_folder
from harness.deeplab.recipe import TIMM
from harness.errors import MissingWeightsError, UserError
from harness.method import Method, Refiner
from harness.registry import Registry

ScanProgress = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


class Inputs:
    """Opens each dataset, split and weight file once.

    Parameters
    ----------
    registry : Registry
    store : Path
        The results folder.
    root : Path or None
        The folder of datasets that need one.
    scan : callable
        Called with (what, done, total) while files are checked.
    """

    def __init__(self, registry: Registry, store: Path, root: Path | None, scan: ScanProgress = _silent) -> None:
        self.registry = registry
        self.store = store
        self.root = root
        self.scan = scan
        self._datasets: dict[str, Dataset] = {}
        self._splits: dict[tuple[Any, ...], SplitIndex] = {}
        self._weights: dict[tuple[str, str], Any] = {}
        self._missing: dict[tuple[str, str], MissingWeightsError] = {}
        self._folders: dict[str, str] = {}
        self._remarks: dict[str, None] = {}

    def roots(self) -> dict[str, str]:
        """Return the folders that were opened: of datasets by name, of external scores by their content."""
        return {name: str(dataset.root.absolute()) for name, dataset in self._datasets.items()} | self._folders

    def weight_files(self) -> dict[str, str]:
        """Return the weight files that were found, by sha256."""
        return {found.sha256: str(found.path.absolute()) for found in self._weights.values() if found.path}

    def notes(self) -> list[str]:
        """Return what a person should know of datasets and splits before a run starts."""
        return [*(dataset.note for dataset in self._datasets.values() if dataset.note), *self._remarks]

    def remark(self, text: str) -> None:
        """Keep something that a person should know, once."""
        self._remarks[text] = None

    def dataset(self, name: str) -> Dataset:
        """Return an opened dataset."""
        if name not in self._datasets:
            dataset = open_dataset(self.registry.load("dataset", name), self.root)
            if len(dataset.classes) > IGNORE:
                raise UserError(
                    f"{name} has {len(dataset.classes) - 1} classes; an indexed mask holds at most {IGNORE - 1} beside "
                    "the background, and 255 for what is not labelled"
                )
            self._datasets[name] = dataset
        return self._datasets[name]

    def split(self, dataset: Dataset, split: str, source: str, masks: bool, limit: int | None) -> SplitIndex:
        """Return a checked split."""
        key = (dataset.name, split, source, masks, limit)
        if key not in self._splits:
            self._splits[key] = index_split(
                dataset,
                split,
                label_source=source,
                masks=masks,
                limit=limit,
                cache=self.store / "cache" if self.store.exists() else None,
                progress=lambda done, total: self.scan(f"{dataset.name}/{split}", done, total),
            )
        return self._splits[key]

    def checkpoint(self, path: str) -> Any:
        """Return a trained model's file, by its hash."""
        from harness.backbones import resolve_weights

        key = ("", path)
        if key not in self._weights:
            self._weights[key] = resolve_weights(path, "")
        return self._weights[key]

    def verifier(self, recipe: dict[str, Any] | None, file: str) -> Any:
        """Return the start weights of a verifier, by their hash.

        Parameters
        ----------
        recipe : dict or None
            None for a cell without verification.
        file : str
            What the command names; empty for weights that are found by themselves.
        """
        from harness.backbones import Weights, resolve_weights

        if recipe is None:
            return Weights("none")
        backbone, init = recipe["backbone"], recipe["init"]
        if init == "random":
            if file:
                raise UserError("--verify-weights: this verifier starts at random; --set protocol.verify_init=file")
            return Weights("random")
        from_hub = init == "imagenet" and backbone.startswith(TIMM)
        if not file and not from_hub:
            from harness.deeplab.weights import PUBLIC  # mm-packages, which nobody else needs

            known = f": {PUBLIC[recipe['style']]}" if recipe["style"] and init != "file" else ""
            raise UserError(
                f"the verifier starts from {init} weights of {backbone}{known}\n"
                "--verify-weights FILE brings them; --set protocol.verify_init=random does without"
            )
        key = (backbone, file or "hub")
        if key not in self._weights:
            self._weights[key] = resolve_weights(file or "hub", backbone.removeprefix(TIMM))
        return self._weights[key]

    def brought(self, cell: Cell, method: Method, class_ids: list[int], indices: list[SplitIndex]) -> str:
        """Check the folder of an external method against the images of some splits; return a key of its content."""
        from harness.external import check_folder

        assert cell.folder
        content = check_folder(
            cell.folder,
            method,
            len(class_ids),
            len(self.dataset(cell.spec.dataset).classes),
            indices,
            lambda done, total: self.scan(str(cell.folder), done, total),
            self.remark,
        )
        self._folders[content] = str(cell.folder)
        return content

    def backbone(self, user: type[Method] | type[Refiner], backbone: str, choice: str) -> tuple[str, Any]:
        """Return timm id and start weights of a backbone, for a method or a refiner that needs one."""
        from harness.backbones import Weights, resolve_weights
        from harness.timm_models import timm_id

        if not user.families:
            return "", Weights("none")
        key = (timm_id(backbone, self.registry), choice)
        if error := self._missing.get(key):
            raise error
        if key not in self._weights:
            try:
                self._weights[key] = resolve_weights(choice, key[0])
            except MissingWeightsError as error:
                self._missing[key] = error  # the network is asked once
                raise
        return key[0], self._weights[key]


def open_dataset(dataset_class: type[Dataset], root: Path | None) -> Dataset:
    """Open a dataset in its folder, drawing it first if it can be drawn.

    Raises
    ------
    UserError
        If it needs a folder and none was given, or the folder does not hold it.
    """
    if dataset_class.needs_root:
        if root is None:
            missing = f"dataset {dataset_class.name} needs its folder: --root DIR, or WSSS_HARNESS_ROOT"
            raise UserError(missing + dataset_class.remedy())
        if not root.is_dir():
            missing = f"no folder {root}: --root names the folder of dataset {dataset_class.name}"
            raise UserError(missing + dataset_class.remedy(root))
        dataset = dataset_class(root)
    else:
        dataset = dataset_class(cache_folder() / f"{dataset_class.name}-{dataset_class.version}")
    dataset.prepare()
    return dataset
