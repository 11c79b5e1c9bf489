"""A file in the settings of a method or a refiner: it counts by its content, and stays where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness.errors import UserError
from harness.files import hash_file

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
        path = Path(_PLACES.get(self.sha256, ""))
        if not path.is_file() or hash_file(path) != self.sha256:
            raise UserError(f"the file {self.name}, sha256 {self.sha256[:12]}, is not here: name it again with --set")
        return path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @classmethod
    def parse(cls, value: Any) -> File:
        """Return the file of a path, or of what `written` makes of one.

        Raises
        ------
        ValueError
            If there is none.
        """
        if isinstance(value, File):
            return value
        if isinstance(value, Mapping) and value.keys() == {"file", "sha256"}:
            return cls(str(value["file"]), str(value["sha256"]))
        if not isinstance(value, str | Path) or not Path(value).is_file():
            raise ValueError(f"no file {value}")
        path = Path(value).absolute()
        sha256 = hash_file(path)
        _PLACES[sha256] = str(path)
        return cls(path.name, sha256)

    def written(self) -> dict[str, str]:
        """Return what keys and records hold."""
        return {"file": self.name, "sha256": self.sha256}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.written)
        )


def known_places() -> dict[str, str]:
    """Return where the files lie that this process knows, by sha256."""
    return dict(_PLACES)


def learn_places(places: Mapping[str, str]) -> None:
    """Know where files lie that another process has found."""
    _PLACES.update(places)
