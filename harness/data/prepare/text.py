"""CLIP's vectors of class names and of backgrounds, for methods that look at text; the only door to open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from harness.errors import EnvironmentUnfitError, UserError, closest
from harness.files import atomic
from harness.strict import Frozen


class Words(Frozen):
    """How classes and backgrounds are put into words: a file of `configs/texts`.

    Attributes
    ----------
    summary, source : str
    template : str
        The sentence, with `{}` for a name.
    names : dict
        What a class is called in it, where that is not its name.
    background : tuple of str
    """

    summary: str = ""
    source: str = ""
    template: str
    names: dict[str, str] = {}
    background: tuple[str, ...]

    def sentences(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """Return the sentences of `classes`, in order, and of `background`."""
        said = [self.names.get(name, name) for name in classes]
        return {
            "classes": [self.template.format(name) for name in said],
            "background": [self.template.format(name) for name in self.background],
        }


def write_vectors(out: Path, sentences: dict[str, list[str]], model: str, weights: str) -> dict[str, tuple[int, ...]]:
    """Write a safetensors file of CLIP's vectors of sentences, and of its `projection` of image features.

    Parameters
    ----------
    out : Path
    sentences : dict
        As `Words.sentences` gives them.
    model : str
        An architecture of open_clip, as `ViT-B-16-quickgelu`.
    weights : str
        A file, or one of open_clip's tags, as `openai`, which is fetched.

    Returns
    -------
    dict
        The shape of each tensor in the file.

    Raises
    ------
    EnvironmentUnfitError
        Without open_clip.
    UserError
        If there is no such model, or no such weights.
    """
    import torch
    from safetensors.torch import save

    open_clip = _open_clip()
    if model not in open_clip.list_models():
        raise UserError(f"open_clip has no model '{model}': {closest(model, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights not in tags and not Path(weights).is_file():
        raise UserError(f"no file '{weights}', and {model} has no such weights: {closest(weights, tags)}")
    try:
        clip = open_clip.create_model(model, pretrained=weights).eval()
    except (RuntimeError, OSError, ValueError, KeyError, UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0][:160]
        raise UserError(f"cannot read {weights} as {model}: {reason}") from None
    projection = getattr(clip.visual, "proj", None)
    if projection is None:
        raise UserError(
            f"the image tower of {model} is no ViT with a projection: methods here read ViT-B-16 and the like"
        )
    tokens = open_clip.get_tokenizer(model)
    with torch.no_grad():
        found = {kind: clip.encode_text(tokens(texts)).float().contiguous() for kind, texts in sentences.items()}
    found["projection"] = projection.detach().float().T.contiguous()
    out.parent.mkdir(parents=True, exist_ok=True)
    said = {kind: " | ".join(texts) for kind, texts in sentences.items()}
    with atomic(out) as file:
        file.write(save(found, {"model": model, **said}))
    return {kind: tuple(tensor.shape) for kind, tensor in found.items()}


def _open_clip() -> Any:
    from harness.torchvision_ops import ensure_importable

    ensure_importable()
    try:
        import open_clip
    except ImportError as error:
        raise EnvironmentUnfitError(
            f"text vectors need open_clip, which does not import ({error}): pip install 'wsss-harness[text]'"
        ) from error
    return open_clip
