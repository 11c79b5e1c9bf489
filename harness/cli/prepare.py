"""`harness prepare`: one command between nothing and a dataset that is complete and verified."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import Json, Plugins, messages, print_json
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.prepare.check import Findings
    from harness.data.prepare.recipe import Preparation
    from harness.registry import Registry

SHOWN = 20  # problems
TEXT = "text"
VIT_B_16 = "ViT-B-16-quickgelu"
_VECTORS = "Text vectors"


def command(
    dataset: Annotated[
        str, typer.Argument(help="voc12, coco14, coco14-smallest or coco14-vitpcm; or text, for CLIP's text vectors.")
    ],
    root: Annotated[
        Path | None, typer.Option(help="The folder to make it in.", envvar="WSSS_HARNESS_ROOT", file_okay=False)
    ] = None,
    archives: Annotated[
        Path | None, typer.Option(help="A folder of official archives; nothing is downloaded.", exists=True)
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="A circulated archive of SegmentationClassAug in place of SBD.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether all is there and right.")] = False,
    sources: Annotated[
        Path | None, typer.Option(help="A YAML file of addresses and checksums.", envvar="WSSS_HARNESS_SOURCES")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    names: Annotated[
        str, typer.Option(help="A dataset, or names of classes by comma.", rich_help_panel=_VECTORS)
    ] = "voc12",
    words: Annotated[
        str, typer.Option(help="How they are put into words: `harness list text`.", rich_help_panel=_VECTORS)
    ] = "clip-es",
    model: Annotated[str, typer.Option(help="An architecture of open_clip.", rich_help_panel=_VECTORS)] = VIT_B_16,
    clip: Annotated[
        str, typer.Option(help="Its weights: a file, or a tag that is fetched.", rich_help_panel=_VECTORS)
    ] = "openai",
    out: Annotated[Path, typer.Option(help="The file to write.", rich_help_panel=_VECTORS)] = Path("texts.safetensors"),
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Prepare an official dataset, or CLIP's vectors of class names.

    Downloads or takes the archives, makes masks and lists, checks every file; goes on where it was stopped.
    """
    from harness.registry import Registry

    if dataset == TEXT:
        _prepare_text(Registry(plugins or ()), names, words, model, clip, out, as_json)
        return
    if root is None:
        raise UserError(f"where is it to be made? harness prepare {dataset} --root FOLDER")
    from harness.data.prepare.recipe import Preparation
    from harness.run.progress import scanning

    console = messages()
    say = partial(console.print, markup=False, highlight=False)
    with scanning(console, "") as scan:
        preparation = Preparation(Registry(plugins or ()).load("dataset", dataset), root, sources, scan)
        found = preparation.check() if check else preparation.make(archives, masks, workers, say)
    if as_json:
        print_json({"pictures": found.images, "masks": found.masks, "problems": found.problems})
    else:
        for line in _lines(preparation, found):
            say(line)
    if found.problems:
        sys.exit(1)


def _prepare_text(registry: Registry, names: str, words: str, model: str, clip: str, out: Path, as_json: bool) -> None:
    from harness.data.prepare.text import Words, write_vectors
    from harness.strict import parse

    known = names in registry.names("dataset")
    classes = registry.load("dataset", names).classes[1:] if known else tuple(map(str.strip, names.split(",")))
    if not all(classes):
        raise UserError(f"no classes in --names '{names}': a dataset that has its own, or names by comma")
    sentences = parse(Words, registry.load("text", words), f"words '{words}'").sentences(classes)
    shapes = write_vectors(out, sentences, model, clip)
    if as_json:
        print_json({"file": str(out), "shapes": shapes, "sentences": sentences})
        return
    say = partial(messages().print, markup=False, highlight=False)
    say(f"{out}: {len(classes)} classes, {shapes['background'][0]} backgrounds, {shapes['classes'][1]} numbers each")
    say(f"  {sentences['classes'][0]} … {sentences['background'][-1]}")
    say(f"next: harness run --methods clip-es --input texts={shlex.quote(str(out))} --weights FILE …")


def _lines(preparation: Preparation, found: Findings) -> list[str]:
    """Say what there is, what is wrong, and which command comes next."""
    name, where = preparation.dataset.name, shlex.quote(str(preparation.root))
    lines = [f"{split}: {count:,} images" for split, count in found.images.items()]
    lines += [f"masks: {found.masks['name']}"] if found.masks else []
    lines += [f"  {split}, hash of its pixels: {pixels}" for split, pixels in found.masks.get("pixels", {}).items()]
    if not found.problems:
        return [*lines, f"complete and verified; next: harness run --dataset {name} --root {where} --methods vitpcm"]
    lines += [f"{what}: {problem}" for what, problem in list(found.problems.items())[:SHOWN]]
    if len(found.problems) > SHOWN:
        lines.append(f"and {len(found.problems) - SHOWN} more; --json names all of them")
    count = len(found.problems)
    options = preparation.recipe.repair_options(found.masks.get("name", ""))
    command = f"harness prepare {name} --root {where}{options}"
    return [*lines, f"{count} problem{'s' * (count > 1)}; repaired by: {command}"]
