"""A file or folder in the settings of a method or a refiner: it counts by its content, and stays where it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness.errors import UserError
from harness.files import hash_file
from harness.strict import canonical

_PLACES: dict[str, str] = {}  # of the files that this process knows, by sha256


class File:
    """A file that a setting names, as `vectors: File` in `Params`.

    Keys and records hold `name` and `sha256`, so that another content is another setting and nobody's
    folders are written down. Stages find it on the machine where the run was started, or under the same path.

    Attributes
    ----------
    name : str
        Without its folder.
    sha256 : str
    """

    what: ClassVar[str] = "file"

    def __init__(self, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256

    @property
    def path(self) -> Path:
        """Where it lies.

        Raises
        ------
        UserError
            If no file of this machine is known for it, or the file has changed.
        """
        path = Path(_PLACES.get(self.sha256, "/nowhere"))
        if self.content(path) != self.sha256:
            raise UserError(
                f"the {self.what} {self.name}, sha256 {self.sha256[:12]}, is not here: name it again with --set"
            )
        return path

    @classmethod
    def content(cls, path: Path) -> str:
        """Return the sha256 of what lies at a path; empty if there is no such thing."""
        return hash_file(path) if path.is_file() else ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return the file of a path, or of what `written` makes of one.

        Raises
        ------
        ValueError
            If there is none.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping) and value.keys() == {cls.what, "sha256"}:
            return cls(str(value[cls.what]), str(value["sha256"]))
        path = Path(value).absolute() if isinstance(value, str | Path) else None
        sha256 = cls.content(path) if path else ""
        if not path or not sha256:
            raise ValueError(f"no {cls.what} {value}")
        _PLACES[sha256] = str(path)
        return cls(path.name, sha256)

    def written(self) -> dict[str, str]:
        """Return what keys and records hold."""
        return {self.what: self.name, "sha256": self.sha256}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.written)
        )


class Folder(File):
    """A folder of files that a setting names, as `saliency: Folder`; names and contents of its files are what counts.

    Attributes
    ----------
    name : str
    sha256 : str
        Of the sorted names and hashes of its files; what begins with a dot and what lies in folders of it is not seen.
    """

    what: ClassVar[str] = "folder"

    @classmethod
    def content(cls, path: Path) -> str:
        """Return the sha256 of the files of a folder; empty if there is none."""
        if not path.is_dir():
            return ""
        return hashlib.sha256(canonical([[file.name, hash_file(file)] for file in _files(path)]).encode()).hexdigest()

    @cached_property
    def _found(self) -> dict[str, Path]:
        return {file.stem: file for file in _files(self.path)}

    def files(self) -> dict[str, Path]:
        """Return its files by their names without suffix, as images are called by their ids.

        Their contents are looked at once, however often this is asked.

        Raises
        ------
        UserError
            As `path` does.
        """
        return self._found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def file_name(value: Any) -> Any:
    """Return the name alone of what `written` made of a file or folder, and any other value as it is."""
    is_file = isinstance(value, Mapping) and value.keys() in ({"file", "sha256"}, {"folder", "sha256"})
    return next(iter(value.values())) if is_file else value


def known_places() -> dict[str, str]:
    """Return where the files and folders lie that this process knows, by sha256."""
    return dict(_PLACES)


def learn_places(places: Mapping[str, str]) -> None:
    """Know where files lie that another process has found."""
    _PLACES.update(places)
