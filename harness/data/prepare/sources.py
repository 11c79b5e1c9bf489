"""Where the official archives are, and how one knows that a file is the right one: `configs/archives.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt, RootModel

from harness.data.download import Progress, WrongFileError, checksums
from harness.errors import UserError, closest
from harness.registry import configs
from harness.strict import Frozen, parse, read_yaml


class Archive(Frozen):
    """A file that somebody publishes.

    Attributes
    ----------
    urls : tuple of str
        Its addresses, tried in this order.
    size : int or None
        In bytes, if it is known.
    md5, sha256 : str
        Its checksums; empty where none is known.
    unpacks_to : int
        Bytes; one that unpacks to more is refused.
    unpacked : bool
        Whether its files are written to the disk; otherwise they are only read.
    """

    urls: tuple[str, ...] = ()
    size: PositiveInt | None = None
    md5: str = ""
    sha256: str = ""
    unpacks_to: PositiveInt
    unpacked: bool = True

    @property
    def vouched(self) -> str:
        """The checksum that vouches for it, as `md5 6cd6…`; empty if there is none."""
        if self.sha256:
            return f"sha256 {self.sha256}"
        return f"md5 {self.md5}" if self.md5 else ""

    def verify(self, path: Path, progress: Progress = lambda done, total: None) -> dict[str, str]:
        """Return the checksums of a file.

        Raises
        ------
        WrongFileError
            If it is not this one.
        """
        if self.size not in (None, path.stat().st_size):
            raise WrongFileError(f"{path.name} has {path.stat().st_size:,} bytes instead of {self.size:,}")
        found = checksums(path, progress)
        for name, value in found.items():
            if getattr(self, name) not in ("", value):
                raise WrongFileError(f"{path.name} has {name} {value} instead of {getattr(self, name)}")
        return found


class Sources(Frozen):
    """What a dataset is made from.

    Attributes
    ----------
    archives : dict
        By file name.
    made : int
        Bytes that are written beside what is unpacked.
    counts : dict
        How many images a split has; the official number where nothing is said.
    """

    archives: dict[str, Archive]
    made: int = 0
    counts: dict[str, int] = {}


class _File(RootModel[dict[str, Sources]]):
    pass


def read_sources(name: str, file: Path | None = None) -> Sources:
    """Return what a dataset is made from, by the built-in file or another one.

    Raises
    ------
    UserError
        If the file is not of that form, or says nothing of the dataset.
    """
    path = file or configs() / "archives.yaml"
    found = parse(_File, read_yaml(path), source=path).root
    if name not in found:
        raise UserError(f"{path} says nothing of {name}: {closest(name, found)}")
    return found[name]
