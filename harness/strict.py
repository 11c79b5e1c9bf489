"""Strict, frozen models; YAML files; and one-line errors that name the file, the line and the closest key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError, closest


class Frozen(BaseModel):
    """A model whose fields cannot be changed and whose unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)

KEY = r"[0-9a-f]{20}"  # the pattern of what `digest` returns


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the key of a value: 20 hexadecimal digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    UserError
        If it is missing, is not YAML, or holds something else; with the line.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML: {error.problem}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}:1: expected a mapping of keys to values")
    return data


def parse(model: type[Model], data: Mapping[str, Any], where: str = "", source: Path | None = None) -> Model:
    """Build a model from untrusted data.

    Parameters
    ----------
    model : type
        The pydantic model.
    data : mapping
        What somebody wrote.
    where : str
        What to call it in an error: an option, an experiment.
    source : Path, optional
        The YAML file that it was read from: errors then name its line.

    Raises
    ------
    UserError
        With the key, the line and, for an unknown key, the closest known one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_explain(model, error, where, source)) from None


def _explain(model: type[BaseModel], error: ValidationError, where: str, source: Path | None) -> str:
    first, *others = error.errors()
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        problem = f"unknown key '{location[-1]}': {closest(str(location[-1]), _fields(model, location[:-1]))}"
    else:
        got = "" if first["type"] == "missing" else f" (got {first['input']!r:.60})"
        problem = f"{key}: {first['msg'].removeprefix('Value error, ')}{got}"
    if source is not None:
        where = f"{source}:{_line(source, location)}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {problem}{more}" if where else problem + more


def _fields(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the field names of the model at a location inside a model."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _types(field.annotation) if field else []
        model = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), model)
    return list(model.model_fields)


def _types(annotation: Any) -> list[Any]:
    nested = getattr(annotation, "__args__", ())
    return [annotation, *(t for argument in nested for t in _types(argument))]


def _line(source: Path, location: Sequence[int | str]) -> int:
    """Return the line of a YAML file at which a key stands, or of the innermost parent that stands in it."""
    node = yaml.compose(source.read_text("utf-8"), Loader=yaml.CSafeLoader)
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
