"""The stages of one cell: which there are, what each is told, and who reads whom."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.index import NO_LABELS, SplitIndex
from harness.errors import UserError
from harness.method import Method
from harness.protocol import effective_background, effective_gating, ground_truth
from harness.registry import BUILT_IN
from harness.run.resources import known
from harness.spec import Cell, refiner_config
from harness.stages import SHARD, Node

if TYPE_CHECKING:
    from harness.run.plan import Plan, Planner


_TESTING = ("test_scales", "test_flip", "refine")  # what a recipe says of the test: nothing is trained anew for it


class CellGraph:
    """Adds the stages of a cell to a plan, each when it is asked for.

    Parameters
    ----------
    planner : Planner
    plan : Plan
    cell : Cell

    Attributes
    ----------
    keys : list of str
        Keys of the stages, parents first, with repeats.
    """

    def __init__(self, planner: Planner, plan: Plan, cell: Cell) -> None:
        self.planner, self.plan, self.cell = planner, plan, cell
        self.spec, self.protocol = cell.spec, cell.spec.protocol
        method_class: type[Method] = planner.registry.load("method", self.spec.method)
        self.method = method_class(method_class.Params.model_validate(self.spec.params))
        self.dataset = planner.dataset(self.spec.dataset)
        self.class_ids = self.dataset.class_ids(self.protocol.classes)
        self.timm, self.weights = planner.backbone(self.method, self.spec.backbone, cell.weights)
        self.checkpoint = planner.checkpoint(cell.checkpoint) if cell.checkpoint else None
        self.version = planner.registry.source_version("method", self.spec.method)
        self.background = effective_background(self.method, self.protocol)
        self.refiner = refiner_config(planner.registry, self.protocol.refine)
        self.start = planner.verifier(self.spec.verifier, cell.verify_weights)
        self.splits = tuple(dict.fromkeys([*self.protocol.eval_splits, *self._mask_splits()]))
        self.title = f"{self.spec.method} {self.spec.backbone} s{self.spec.seed}".replace(" none", "")
        self.resources = known({**self.method.resources, **self.cell.resources})
        self.foreign = self._foreign()
        self.keys: list[str] = []
        self._labels: dict[tuple[str, bool], Node] = {}
        if not self.dataset.has_masks and self._needs_masks():
            raise UserError(
                f"dataset {self.dataset.name} has no masks here, and protocol {self.protocol.name} needs them: "
                "see its label_source, background_label and background"
            )
        for split in self.splits:
            if split in self.dataset.blind_splits and self.gating(split) == "gt":
                raise UserError(
                    f"{self.dataset.name} {split} has no public image labels to gate classes by: "
                    "--set protocol.class_gating.held_out=none, or predicted:0.5"
                )

    def artefacts(self) -> dict[str, Any]:
        """Add all stages; return their keys by place."""
        splits: dict[str, dict[str, Any]] = {}
        for split in self.protocol.eval_splits:
            if split in self.dataset.blind_splits and "masks" in self.method.supervision:
                splits[split] = {"labels": self.labels(split).key}  # there is no truth to make masks of
                continue
            score = self.score(split)
            place = splits[split] = {"labels": self.labels(split).key, "score": score.key}
            masks = self.masks(split)
            place["mask"] = [mask.key for mask in masks]
            if self._is_scored(split):
                place["evaluate"] = [self.evaluate(split, mask).key for mask in masks]
                if self.method.output != "labels":
                    place["curve"] = self.curve(split, score).key
        model = {} if self.method.external else {node.stage: node.key for node in self.model}
        if self.spec.verifier:
            verify = self.verify()
            model[verify.stage] = verify.key
            for split, place in splits.items():
                segments = [self.segment(split, shard, verify) for shard in range(self._shards(split))]
                place["segment"] = [segment.key for segment in segments]
                if self._is_scored(split):
                    place["verification"] = [self.evaluate(split, segment).key for segment in segments]
        return {"fit": None, **model, "splits": splits}

    def about(self) -> dict[str, Any]:
        """Return what the record says beside the spec."""
        splits = self.protocol.eval_splits
        gating = {split: self.gating(split) for split in self.splits}
        weights = self.weights
        nodes = [self.plan.nodes[key] for key in self.keys]
        return {
            "timm": self.timm,
            "weights": {
                "source": weights.source,
                "sha256": weights.sha256,
                "file": weights.path.name if weights.path else "",
            },
            "checkpoint": {"file": Path(self.cell.checkpoint).name, "sha256": self.checkpoint.sha256}
            if self.checkpoint
            else None,
            "method_version": self.version,
            "supervision": list(self.method.supervision),
            "applied": {"background": self.background, "gating": gating},
            "ground_truth": ground_truth(
                self.method, self.protocol, (*self.dataset.training_splits, *self.dataset.blind_splits), gating
            ),
            "classes": [self.dataset.classes[class_id] for class_id in self.class_ids],
            "data": {node.config["split"]: node.config["content"] for node in nodes if node.stage == "labels"},
            "masks": {
                "set": self.dataset.mask_set(),
                "pixels": {split: self.index(split).mask_digest for split in splits if self._is_scored(split)},
            },
            "pictures": {split: len(self.index(split).ids) for split in splits},
            **({"verifier": self._verifier()} if self.spec.verifier else {}),
        }

    def gating(self, split: str) -> str:
        """Return the gating rule that comes to be applied to a split."""
        return effective_gating(self.method, self.protocol.gating(split, self.dataset.training_splits))

    def index(self, split: str, masks: bool = True) -> SplitIndex:
        """Return a checked split; `masks` where its pixels are needed later."""
        source = self._label_source(split)
        masks = self._is_scored(split) and (masks or source == "masks")
        return self.planner.split(self.dataset, split, source, masks, self.spec.limit)

    def labels(self, split: str, masks: bool = True) -> Node:
        """Add the image labels of a split."""
        if (split, masks) not in self._labels:
            self._labels[split, masks] = self._new_labels(split, masks)
        return self._labels[split, masks]

    def _new_labels(self, split: str, masks: bool) -> Node:
        index = self.index(split, masks)
        config = {
            "dataset": self.spec.dataset, "split": split, "limit": self.spec.limit, "masks": index.masks,
            "class_ids": self.class_ids, "label_source": self._label_source(split),
            "background_label": self.protocol.background_label, "content": index.digest,
        }  # fmt: skip
        node = self._add("labels", config, [], f"{self.spec.dataset}/{split}")
        if node.key not in self.plan.pictures:
            paths = (self.dataset.image_path(image_id) for image_id in index.ids)
            self.plan.pictures[node.key] = tuple(str(path.absolute()) for path in paths)
            self.plan.contents[node.key] = index.pictures
        return node

    def fit(self) -> Node:
        """Add the training."""
        assert self.protocol.fit_split
        config = self._model() | {
            "params": _fit_params(self.method, self.spec.params), "timm": self.timm,
            "weights": self.weights.sha256 or self.weights.source, "num_classes": len(self.class_ids),
            "seed": self.spec.seed,
        }  # fmt: skip
        if self.protocol.checkpoint != "last":
            config["keep_epochs"] = True
        if self.checkpoint:
            config["checkpoint"] = self.checkpoint.sha256
        return self._add("fit", config, [self.labels(self.protocol.fit_split, masks=False)], self.title)

    @cached_property
    def model(self) -> list[Node]:
        """Add the training, and the choice of its epoch where the protocol makes one."""
        if self.protocol.checkpoint == "last":
            return [self.fit()]
        splits = self.protocol.eval_splits
        no_use = (*self.dataset.training_splits, *self.dataset.blind_splits)
        held_out = next((split for split in splits if split not in no_use), None)
        if held_out is None:
            raise UserError(f"checkpoint {self.protocol.checkpoint} needs a held-out split among {', '.join(splits)}")
        rule, _, patience = self.protocol.checkpoint.partition(":")
        config = self._model() | {
            "rule": rule, "split": held_out, "params": self.spec.params, "timm": self.timm,
            "num_classes": len(self.class_ids), "seed": self.spec.seed, "class_ids": self.class_ids,
            "size": self.spec.params.get("image_size", self.spec.params["inference_size"]), "scales": [1.0],
            "flip": "none", "labels_given": False, "oracle": False, "rules": self._rules(held_out),
        }  # fmt: skip
        if patience:
            config["patience"] = int(patience)
        fit = self.fit()
        return [fit, self._add("select", config, [fit, self.labels(held_out)], f"{self.title} {held_out}")]

    def score(self, split: str) -> Node:
        """Add the score maps of a split, from the trained model or from a folder."""
        given, protocol = self._given(split), self.protocol
        if self.method.external:
            indices = [self.index(name, self._sees_pixels(name)) for name in self.splits]
            content = self.planner.brought(self.cell, self.method, self.class_ids, indices)
            config = {"method": self.spec.method, "params": self.spec.params, "external": content}
            return self._add("score", config | {"class_ids": self.class_ids}, [given], f"{self.title} {split}")
        config = self._model() | {
            "params": self.spec.params, "size": protocol.size or self.spec.params["inference_size"],
            "scales": list(protocol.scales), "flip": protocol.flip, "class_ids": self.class_ids,
            "labels_given": self.method.conditions_on_labels and self.gating(split) == "gt",
            "oracle": "masks" in self.method.supervision,
        }  # fmt: skip
        return self._add("score", config, [*self.model, given], f"{self.title} {split}")

    def curve(self, split: str, score: Node) -> Node:
        """Add what the score maps of a split are worth over all thresholds."""
        background = "model" if self.background == "model" else "fixed:0"
        config = {
            "dataset": self.spec.dataset, "class_ids": self.class_ids,
            "rules": self._rules(split) | {"background": background},
        }  # fmt: skip
        return self._add("curve", config, [score, self.labels(split)], f"{self.title} {split}")

    def masks(self, split: str) -> list[Node]:
        """Add the pseudo-masks of a split, by shard."""
        score = self.score(split)
        return [self.mask(split, shard, score) for shard in range(self._shards(split))]

    def mask(self, split: str, shard: int, score: Node) -> Node:
        """Add the pseudo-masks of a shard."""
        config = {"class_ids": self.class_ids, "shard": shard, "rules": self._rules(split), "refine": self.refiner}
        parents = [score, self._given(split)]
        kind, _, swept = self.background.partition(":")
        if kind == "swept_on":
            parents.append(self.curve(swept, self.score(swept)))
        label = f"{self.title} {split} {self.protocol.refine}{self._number(split, shard)}"
        return self._add("mask", config, parents, label)

    def verify(self) -> Node:
        """Add the training of the verifier on the pseudo-masks of a split."""
        assert self.spec.verifier
        assert self.protocol.mask_split
        split = self.protocol.mask_split
        recipe = {key: value for key, value in self.spec.verifier.items() if key not in _TESTING}
        config = {
            "recipe": recipe, "weights": self.start.sha256 or self.start.source, "class_ids": self.class_ids,
            "seed": self.spec.seed, "precision": self.protocol.precision,
        }  # fmt: skip
        parents = [self._given(split), *self.masks(split)]
        return self._add("verify", config, parents, f"{self.title} {split} {self.protocol.verify}")

    def segment(self, split: str, shard: int, verify: Node) -> Node:
        """Add the masks that the verifier predicts of a shard."""
        assert self.spec.verifier
        config = {
            "recipe": {key: self.spec.verifier[key] for key in _TESTING}, "class_ids": self.class_ids, "shard": shard,
            "refine": refiner_config(self.planner.registry, self.spec.verifier["refine"]),
            "precision": self.protocol.precision,
        }  # fmt: skip
        label = f"{self.title} {split} {self.protocol.verify}{self._number(split, shard)}"
        return self._add("segment", config, [verify, self.labels(split)], label)

    def evaluate(self, split: str, mask: Node) -> Node:
        """Add the confusion matrices of a shard."""
        config = {"dataset": self.spec.dataset, "class_ids": self.class_ids, "shard": mask.config["shard"]}
        return self._add("evaluate", config, [mask, self.labels(split)], mask.label)

    def _add(self, stage: str, config: dict[str, Any], parents: list[Node], label: str) -> Node:
        read = {_role(parent, stage): parent.key for parent in parents}
        node = Node(stage, config, read, label, self.resources)
        self.keys.append(node.key)
        if stage in self.foreign:
            self.plan.foreign.add(node.key)
        return self.plan.nodes.setdefault(node.key, node)

    def _verifier(self) -> dict[str, Any]:
        """Return what the record says of the verifier before it is trained."""
        assert self.spec.verifier
        start = self.start
        return {
            "recipe": self.protocol.verify, "init": self.spec.verifier["init"], "sha256": start.sha256,
            "file": start.path.name if start.path else "", "mask_split": self.protocol.mask_split,
        }  # fmt: skip

    def _mask_splits(self) -> list[str]:
        return [self.protocol.mask_split] if self.spec.verifier and self.protocol.mask_split else []

    def _foreign(self) -> set[str]:
        """Return the stages that run code which did not come with the harness."""
        origin = self.planner.registry.entry("method", self.spec.method).origin
        found = set() if origin == BUILT_IN else {"fit", "select", "score"}
        if self.refiner and self.planner.registry.entry("refiner", self.refiner["name"]).origin != BUILT_IN:
            found.add("mask")
        return found

    def _needs_masks(self) -> bool:
        sources = (self.protocol.label_source, self.protocol.background_label)
        return "masks" in sources or self.background.startswith("swept_on")

    def _label_source(self, split: str) -> str:
        assert self.protocol.label_source
        return NO_LABELS if split in self.dataset.blind_splits else self.protocol.label_source

    def _is_scored(self, split: str) -> bool:
        return self.dataset.has_masks and split not in self.dataset.blind_splits

    def _given(self, split: str) -> Node:
        """Add the image labels of a split that masks are made of; its pixels are looked at only where they must be."""
        return self.labels(split, self._sees_pixels(split))

    def _sees_pixels(self, split: str) -> bool:
        swept = self.background == f"swept_on:{split}"
        return split in self.protocol.eval_splits or swept or "masks" in self.method.supervision

    def _number(self, split: str, shard: int) -> str:
        return f" {shard + 1}/{self._shards(split)}" if self._shards(split) > 1 else ""

    def _shards(self, split: str) -> int:
        return -(-len(self.index(split, self._sees_pixels(split)).ids) // SHARD)

    def _model(self) -> dict[str, Any]:
        return {
            "dataset": self.spec.dataset, "method": self.spec.method, "version": self.version,
            "precision": self.protocol.precision,
        }  # fmt: skip

    def _rules(self, split: str) -> dict[str, Any]:
        return {
            "gating": self.gating(split), "normalisation": self.protocol.normalisation, "background": self.background,
            "align_corners": self.protocol.align_corners,
        }  # fmt: skip


def _role(parent: Node, stage: str) -> str:
    """Return what a parent is to a stage: its stage's name, and the shard where all shards are read."""
    return f"{parent.stage}/{parent.config['shard']}" if (stage, parent.stage) == ("verify", "mask") else parent.stage


def _fit_params(method: Method, params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that training depends on: all but those marked as of the stage `score`."""
    marks = {name: field.json_schema_extra for name, field in method.Params.model_fields.items()}
    return {name: value for name, value in params.items() if marks[name] != {"stage": "score"}}
