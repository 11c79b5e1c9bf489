"""Masks or score maps of a folder, of any origin: scored, refined and verified like all others."""

from __future__ import annotations

from typing import Literal

from harness import Method, Params, RunSpec


class ExternalParams(Params):
    """Settings of external results.

    Attributes
    ----------
    folder : str
        Holds one file per image, named by its id: indexed PNG masks at image size, or (C, h, w) scores as .npy, or
        as .npz with `scores` and, where it holds some channels only, `classes`.
    kind : {"masks", "scores"}
    output : {"activation", "probability"}
        What scores are.
    background : bool
        Whether channel 0 of scores is the background.
    supervision : str
        What made them, for the tables.
    """

    folder: str = ""
    kind: Literal["masks", "scores"] = "masks"
    output: Literal["activation", "probability"] = "activation"
    background: bool = False
    supervision: str = "unknown"


class External(Method):
    """What lies in a folder; nothing is trained."""

    name = "external"
    families = ()
    external = True
    expected_failures = {"cited": "whoever made the results"}
    Params = ExternalParams

    params: ExternalParams

    @classmethod
    def skip(cls, spec: RunSpec) -> str | None:
        return None if spec.params["folder"] else "no folder was given: --set external.folder=DIR"

    def __init__(self, params: ExternalParams) -> None:
        super().__init__(params)
        masks = params.kind == "masks"
        self.output = "labels" if masks else params.output
        self.background = masks or params.background
        self.supervision = (params.supervision,)
