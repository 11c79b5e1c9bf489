"""A cell with what its stages are planned from: plugins, dataset, weights, effective rules; all of it checked."""

from __future__ import annotations

from functools import cached_property

from harness.cell import Cell
from harness.data.index import NO_LABELS, SplitIndex
from harness.effective import effective_background, effective_gating
from harness.errors import UserError
from harness.inputs import Inputs
from harness.method import Method, Refiner
from harness.registry import BUILT_IN
from harness.rules import Rule, Rules
from harness.run.resources import known
from harness.spec import refiner_config
from harness.stages import SHARD


class OpenedCell:
    """A cell, opened.

    Parameters
    ----------
    inputs : Inputs
    cell : Cell

    Raises
    ------
    UserError
        If its protocol needs what its dataset does not have.
    """

    def __init__(self, inputs: Inputs, cell: Cell) -> None:
        self.inputs, self.cell = inputs, cell
        registry = inputs.registry
        self.spec, self.protocol = cell.spec, cell.spec.protocol
        method_class: type[Method] = registry.load("method", self.spec.method)
        self.method = method_class(method_class.Params.model_validate(self.spec.params))
        self.dataset = inputs.dataset(self.spec.dataset)
        self.class_ids = self.dataset.class_ids(self.protocol.classes)
        from harness.timm_models import family_of

        self.timm, self.weights = inputs.backbone(method_class, self.spec.backbone, cell.weights)
        self.checkpoint = inputs.checkpoint(cell.checkpoint) if cell.checkpoint else None
        self.version = registry.source_version("method", self.spec.method)
        kind = family_of(self.spec.backbone, registry) if self.timm else ""
        self.background = effective_background(self.method, self.protocol, kind)
        self.refiner = refiner_config(registry, self.protocol.refine, self.spec.refiner)
        self.refiner_class: type[Refiner] | None = (
            registry.load("refiner", self.refiner["name"]) if self.refiner else None
        )
        self.start = inputs.verifier(self.spec.verifier, cell.verify_weights)
        self.splits = tuple(dict.fromkeys([*self.protocol.eval_splits, *self._mask_splits()]))
        self.title = f"{self.spec.method} {self.spec.backbone} s{self.spec.seed}".replace(" none", "")
        refiner_resources = self.refiner_class.resources if self.refiner_class else {}
        self.resources = known({**self.method.resources, **refiner_resources, **self.cell.resources})
        self.foreign = self._foreign()
        if not self.dataset.has_masks and self._needs_masks():
            raise UserError(
                f"dataset {self.dataset.name} has no masks here, and protocol {self.protocol.name} needs them: "
                "see its label_source, background_label and background"
            )
        if "masks" in self.method.supervision and not self.dataset.has_masks:
            raise UserError(f"{self.method.name} is made of masks, and dataset {self.dataset.name} has none here")
        for split in self.splits:
            if split in self.dataset.blind_splits and self.gating(split).kind == "gt":
                raise UserError(
                    f"{self.dataset.name} {split} has no public image labels to gate classes by: "
                    "--set protocol.class_gating.held_out=none, or predicted:0.5"
                )

        self._look_at_splits()

    def _look_at_splits(self) -> None:
        """Refuse a scored split without labelled pixels; remark on what makes scores mean less than they seem to."""
        name, remark = self.dataset.name, self.inputs.remark
        for split in self.protocol.eval_splits:
            if not self.is_scored(split):
                continue
            index = self.index(split)
            values = {value for image in index.images for value in image.mask_values}
            if not values & set(self.class_ids):
                raise UserError(f"{name}/{split} has no labelled pixel of the classes that count: nothing to score")
            if values == {0}:
                remark(f"the masks of {name}/{split} hold only 0 and 255, which is not labelled: did you mean 1?")
            if turned := sum(image.turned for image in index.images):
                remark(f"{turned} images of {name}/{split} are turned by their EXIF tag: their masks must be upright")
        for split, count in self.overlaps.items():
            remark(f"{count} images of {name}/{split} are in {self.protocol.fit_split} too, which is trained on")
        for text in self.dataset.remarks({*self.splits, self.protocol.fit_split or ""}):
            remark(text)

    @cached_property
    def overlaps(self) -> dict[str, int]:
        """How many images of a held-out split are trained on, by id or by content; only where there are any."""
        if self.method.external or "image_labels" not in self.method.supervision or not self.protocol.fit_split:
            return {}
        trained = self.index(self.protocol.fit_split, masks=False).images
        known = {image.id for image in trained} | {image.image for image in trained}
        held_out = [split for split in self.protocol.eval_splits if split not in self.dataset.training_splits]
        counts = {
            split: sum(not known.isdisjoint((image.id, image.image)) for image in self.index(split).images)
            for split in held_out
        }
        return {split: count for split, count in counts.items() if count}

    def gating(self, split: str) -> Rule:
        """Return the effective gating rule of a split."""
        return effective_gating(self.method, self.protocol.gating(split, self.dataset.training_splits))

    def index(self, split: str, masks: bool = True) -> SplitIndex:
        """Return a checked split; `masks` where its pixels are needed later."""
        source = self.label_source(split)
        masks = self.is_scored(split) and (masks or source == "masks")
        return self.inputs.split(self.dataset, split, source, masks, self.spec.limit)

    def _mask_splits(self) -> list[str]:
        return [self.protocol.mask_split] if self.spec.verifier and self.protocol.mask_split else []

    def _foreign(self) -> set[str]:
        """Return the stages that run code which did not come with the harness."""
        origin = self.inputs.registry.entry("method", self.spec.method).origin
        found = set() if origin == BUILT_IN else {"fit", "select", "score"}
        if self.refiner and self.inputs.registry.entry("refiner", self.refiner["name"]).origin != BUILT_IN:
            found |= {"mask", "fit_refiner"}
        return found

    def _needs_masks(self) -> bool:
        sources = (self.protocol.label_source, self.protocol.background_label)
        return "masks" in sources or self.background.kind == "swept_on"

    def label_source(self, split: str) -> str:
        """Return where the image labels of a split come from."""
        assert self.protocol.label_source
        return NO_LABELS if split in self.dataset.blind_splits else self.protocol.label_source

    def is_scored(self, split: str) -> bool:
        """Return whether a split has ground truth to be scored against."""
        return self.dataset.has_masks and split not in self.dataset.blind_splits

    def sees_pixels(self, split: str) -> bool:
        """Return whether the check pass looks at the masks of a split that masks are made of."""
        swept = self.background == Rule("swept_on", split)
        return split in self.protocol.eval_splits or swept or "masks" in self.method.supervision

    def shards(self, split: str) -> int:
        """Return into how many shards a split falls."""
        return -(-len(self.index(split, self.sees_pixels(split)).ids) // SHARD)

    def rules(self, split: str) -> Rules:
        """Return the effective rules of a split."""
        protocol = self.protocol
        return Rules(
            self.gating(split), protocol.normalisation, self.background, protocol.align_corners,
            protocol.gated_background, protocol.upsampling,
        )  # fmt: skip
