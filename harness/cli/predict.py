"""`harness predict`: masks for a folder of images from a trained cell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Json, Plugins, Results, messages, print_json, split_commas, tracked
from harness.errors import EnvironmentUnfitError, UserError

SHEET = 48  # photos on the contact sheet


def command(
    run: Annotated[str, typer.Argument(help="The first digits of a record's key; see `harness list runs`.")],
    images: Annotated[Path, typer.Option(help="Folder of images.", file_okay=False)],
    out: Annotated[Path, typer.Option(help="Where to write masks, overlays and a contact sheet.", file_okay=False)],
    classes: Annotated[str | None, typer.Option(help="What the images may show; default: the model says.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    results: Results = DEFAULT_RESULTS,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Segment your own photos with a cell."""
    if not images.is_dir():
        raise UserError(f"no folder {images}: --images names a folder of images")
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    from harness.data.base import open_rgb, save_mask
    from harness.predict import SUFFIXES, Predictor, contact_sheet, images_in, overlay, thumbnail
    from harness.registry import Registry
    from harness.results.store import Store

    paths, others = images_in(images)
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnfitError("--device cuda, but torch sees no GPU: check the driver, or --device cpu")
    store = Store(results)
    record = store.find(run)
    predictor = Predictor(record, store, Registry(plugins or ()), split_commas(classes, "--classes") or (), device)
    console = messages()
    console.print(
        f"{record['title']} on {len(paths)} photos; classes {predictor.gating}", markup=False, highlight=False
    )
    for name in ("masks", "overlays"):
        (out / name).mkdir(parents=True, exist_ok=True)
    sheet: list[tuple[str, np.ndarray, list[str]]] = []
    found, bad = {}, {}
    for path in tracked(paths, "photos", len(paths)):
        try:
            mask = predictor(path)
        except Image.DecompressionBombError:
            bad[path.name] = "too large: its header names more than 178 million pixels"
            continue
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, MemoryError) as error:
            bad[path.name] = str(error).partition("\n")[0] or type(error).__name__
            continue
        seen = [predictor.names[number] for number in np.unique(mask) if number]
        found[path.name] = seen
        save_mask(out / "masks" / f"{path.stem}.png", mask)
        image = overlay(open_rgb(path), mask)
        Image.fromarray(image).save(out / "overlays" / f"{path.stem}.jpg", quality=90)
        if len(sheet) < SHEET:
            sheet.append((path.name, thumbnail(image), seen))
    if sheet:
        contact_sheet(sheet, out / "contact-sheet.png")
    legend = ", ".join(f"{number} {name}" for number, name in enumerate(predictor.names))
    if as_json:
        print_json(
            {"run": record["key"], "classes": predictor.names, "gating": predictor.gating, "found": found, "bad": bad,
             "left_out": others}
        )  # fmt: skip
    console.print(f"masks hold: {legend}", markup=False, highlight=False)
    if sheet:
        written = f"written: {out / 'masks'}, {out / 'overlays'}, {out / 'contact-sheet.png'}"
        console.print(written, markup=False, highlight=False)
    if others:
        left_out = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        readable = ", ".join(SUFFIXES)
        console.print(f"left out, as not {readable}: {left_out}", markup=False, highlight=False)
    for name, reason in bad.items():
        console.print(f"skipped {name}: {reason}", markup=False, highlight=False)
    if bad:
        sys.exit(1)
