"""Score maps from image files to a stored artefact, against a bare forward of the same backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from benchmarks.cells import forget, method_of, plan, run_stage, store_of, the_stage
from benchmarks.row import Aim, Row, Setting, rate, seconds
from harness.data.base import open_rgb
from harness.images import squash
from harness.registry import Registry
from harness.stages.fit import load_model
from harness.stages.score import batch_size
from harness.torchvision_ops import ensure_importable


def rows(at: Setting) -> list[Row]:
    """Return the row: CAM, whose own part is one 1x1 convolution, so that nearly all is backbone."""
    backbone, size, count = at.pick(("vit_s16", 384, 42), ("timm:test_vit", 160, 4))
    settings = {"cam.epochs": 0, "cam.inference_size": size, "cam.image_size": size}
    planned = plan(at, "score-maps", methods="cam", backbones=backbone, limit=count, set=settings)
    node = the_stage(planned, "score", "val")
    run_stage(planned, node, at)
    fitted = store_of(planned).need("fit", node.parents["fit"])
    model: Any = load_model(Registry(), method_of(planned), fitted)
    paths = [Path(path) for path in planned.locations_of(node).image_paths]
    images = torch.stack([squash(open_rgb(path), (size, size)) for path in paths])
    normal = (images - model.backbone.mean) / model.backbone.std
    batches = [batch.to(at.device) for batch in normal.split(batch_size(size, at.device))]
    bare = bare_backbone(model, at)

    def stored() -> Any:
        forget(planned, node)
        return rate(len(paths), lambda: run_stage(planned, node, at), at.device)

    def forward() -> list[torch.Tensor]:
        torch.set_num_threads(at.threads)
        with torch.inference_mode():
            return [bare(batch) for batch in batches]

    def agree(made: Any) -> str:
        (file,) = made["harness"].path.glob("*.safetensors")
        maps = load_file(file)
        found = torch.stack([torch.from_numpy(maps[f"map:{path.stem}"]) for path in paths]).float()
        tokens = torch.cat([batch.cpu() for batch in made["bare timm forward"]])[:, 1:]
        with torch.inference_mode():
            expected = model.classifier(tokens.transpose(1, 2).unflatten(2, found.shape[2:])).relu()
        worst = float((found - expected).abs().max() / expected.max())
        assert worst < 1e-3, worst
        return f"maps of the bare features, to {worst:.0e} of the largest"

    def facts() -> dict[str, str]:
        reading = seconds(lambda: [squash(open_rgb(path), (size, size)) for path in paths])[0]
        building = seconds(lambda: load_model(Registry(), method_of(planned), fitted))[0]
        manifest = store_of(planned).need("score", node.key).manifest
        return {
            "floor: forward of the backbone, ms an image": f"{1e3 * seconds(forward, at.device)[0] / len(paths):.0f}",
            "decoding and resizing, ms an image on one core": f"{1e3 * reading / len(paths):.1f}",
            "building and loading the model, once": f"{building:.2f} s",
            "pictures": str(len(paths)),
            "kept, bytes an image": f"{manifest['bytes'] / len(paths):.0f}",
        }

    return [
        Row(
            name="score-maps",
            what=f"score maps of cam, {backbone} at {size}, files to stored maps",
            against="bare timm forward, tensors ready in memory",
            unit="images/s",
            sides={"harness": stored, "bare timm forward": partial(rate, len(paths), forward, at.device)},
            ratio=lambda values: values["harness"] / values["bare timm forward"],
            aim=Aim(">=", 0.9),
            agree=agree,
            facts=facts,
            repeats=4,
            opponents=("timm", "torch"),
        )
    ]


def bare_backbone(model: Any, at: Setting) -> Any:
    """Return the backbone of a model as timm makes it, with the same weights."""
    ensure_importable()
    import timm

    net = timm.create_model(model.backbone.timm_id, num_classes=0, global_pool="", dynamic_img_size=True)
    net.load_state_dict(model.backbone.net.state_dict())
    return net.eval().to(at.device)
