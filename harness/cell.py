"""A cell: one point of a grid, everything that was asked for with every default filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from harness.file_setting import file_name
from harness.protocol import Protocol
from harness.strict import Frozen


class RunSpec(Frozen):
    """One cell of the grid: everything that was asked for, with every default filled in.

    `weights` is `random`, `hub`, `file` or `none`; which file is the record's business, by its hash. `checkpoint` says
    whether the trained model was brought along instead of trained here. `verifier` is the recipe of the verification;
    `parent` the method that the cell's method starts from, its parameters, and its own parent; `refiner` the settings
    of the refiner that were asked for beside its preset's. These three are left out where there are none.
    """

    method: str
    params: dict[str, Any]
    backbone: str
    weights: str
    dataset: str
    protocol: Protocol
    seed: int
    limit: int | None = None
    checkpoint: bool = False
    verifier: dict[str, Any] | None = None
    parent: dict[str, Any] | None = None
    refiner: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is none of: keys are those from before there was any."""
        optional = ("verifier", "parent", "refiner")
        return {key: value for key, value in dump(self).items() if key not in optional or value is not None}

    @property
    def title(self) -> str:
        """Return what people call the cell."""
        protocol = self.protocol
        refine = refiner_name(protocol.refine, self.refiner)
        parts = [self.method, self.backbone, self.dataset, protocol.name, refine, protocol.verify, f"s{self.seed}"]
        return "/".join(part for part in parts if part != "none")


def distinct_titles(specs: Sequence[RunSpec]) -> list[str]:
    """Return the title of each cell, with the settings in which it is unlike most others of the same title."""
    titles = [spec.title for spec in specs]
    each = [settings(spec.model_dump(mode="json")) for spec in specs]
    found = []
    for title, own in zip(titles, each, strict=True):
        alike = [other for other, name in zip(each, titles, strict=True) if name == title]
        keys = dict.fromkeys(key for other in alike for key in other)
        apart = [key for key in keys if 2 * sum(other.get(key) == own.get(key) for other in alike) <= len(alike)]
        said = ", ".join(f"{key.removeprefix('params.')}={own.get(key)}" for key in apart)
        found.append(f"{title} ({said})" if said else title)
    return found


def flat(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with its path: `protocol.background`, `fixed:0.4`."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def settings(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested mappings by their paths, but for what only describes them."""
    return {path: value for path, value in flat(nested) if path.rpartition(".")[2] not in ("summary", "source")}


def refiner_name(refine: str, settings: Mapping[str, Any] | None) -> str:
    """Return what people call a refiner: as it was asked for, with the settings that differ from its preset's."""
    said = ", ".join(f"{key}={file_name(value)}" for key, value in sorted((settings or {}).items()))
    return f"{refine}({said})" if said else refine


@dataclass(frozen=True)
class Cell:
    """A cell with what the plan needs beside its spec.

    Attributes
    ----------
    spec : RunSpec
    weights : str
        Start weights as they were asked for: `random`, `hub`, or a file.
    origins : dict
        Where each setting that is not the method's own default came from.
    skip : str
        Why it makes no sense; empty when it does.
    folder : Path or None
        Where the masks or scores of an external method are.
    checkpoint : str
        The file of a trained model, instead of a training; empty for none.
    resources : mapping
        What its stages take, by `stage.quantity`; how it runs, not what it is.
    verify_weights : str
        The file that the verifier starts from; empty for one that is found by itself, or none.
    broken : str
        What its method raised when it was asked whether the cell makes sense; empty for nothing.
    """

    spec: RunSpec
    weights: str
    origins: dict[str, str]
    skip: str = ""
    folder: Path | None = None
    checkpoint: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    verify_weights: str = ""
    broken: str = ""

    @property
    def barred(self) -> str:
        """`skipped` or `broken`, for one that cannot run; else empty."""
        return "skipped" if self.skip else "broken" if self.broken else ""

    @property
    def why_barred(self) -> str:
        """Why it cannot run; empty when it can."""
        return self.skip or self.broken


def weights_of(choice: str, backbone: str) -> tuple[str, str]:
    """Return the start weights of a backbone, or why it has none: of `hub`, or of `vit_s16=FILE,resnet50v2=hub`.

    A choice that names no backbone holds for all that are not named.
    """
    if "=" not in choice or Path(choice).exists():
        return choice, ""
    named = dict(part.rpartition("=")[::2] for part in choice.split(","))
    found = named.get(backbone, named.get(""))
    if found:
        return found, ""
    return "none", f"--weights names none for {backbone}: add {backbone}=FILE, {backbone}=hub or {backbone}=random"
