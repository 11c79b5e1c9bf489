"""The stages of one cell: their configurations and their dependencies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.cell import Cell
from harness.data.index import NO_LABELS, Picture, SplitIndex
from harness.effective import effective_background, effective_gating
from harness.errors import UserError
from harness.inputs import Inputs
from harness.method import Method
from harness.registry import BUILT_IN
from harness.rules import Rule, Rules
from harness.run.resources import known
from harness.spec import refiner_config
from harness.stages import SHARD, STAGES, Node, configs

_TESTING = ("test_scales", "test_flip", "refine")  # what a recipe says of the test: nothing is trained anew for it


@dataclass
class Graph:
    """Stages that cells share, and the images that they open.

    Attributes
    ----------
    nodes : dict
        Every stage once, by key, parents before children.
    pictures : dict
        The image files of each split, by the key of its labels.
    contents : dict
        What the check pass found in them.
    foreign : set of str
        Keys of the stages that run code of a plugin, given or installed: each gets a process of its own.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    pictures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contents: dict[str, tuple[Picture, ...]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)


class CellGraph:
    """Adds the stages of a cell to a graph, each when it is asked for.

    Parameters
    ----------
    inputs : Inputs
    graph : Graph
    cell : Cell

    Attributes
    ----------
    keys : list of str
        Keys of the stages, parents first, with repeats.
    """

    def __init__(self, inputs: Inputs, graph: Graph, cell: Cell) -> None:
        self.inputs, self.graph, self.cell = inputs, graph, cell
        registry = inputs.registry
        self.spec, self.protocol = cell.spec, cell.spec.protocol
        method_class: type[Method] = registry.load("method", self.spec.method)
        self.method = method_class(method_class.Params.model_validate(self.spec.params))
        self.dataset = inputs.dataset(self.spec.dataset)
        self.class_ids = self.dataset.class_ids(self.protocol.classes)
        self.timm, self.weights = inputs.backbone(self.method, self.spec.backbone, cell.weights)
        self.checkpoint = inputs.checkpoint(cell.checkpoint) if cell.checkpoint else None
        self.version = registry.source_version("method", self.spec.method)
        self.background = effective_background(self.method, self.protocol)
        self.refiner = refiner_config(registry, self.protocol.refine)
        self.start = inputs.verifier(self.spec.verifier, cell.verify_weights)
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
            if split in self.dataset.blind_splits and self.gating(split).kind == "gt":
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
            if self.is_scored(split):
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
                if self.is_scored(split):
                    place["verification"] = [self.evaluate(split, segment).key for segment in segments]
        return {"fit": None, **model, "splits": splits}

    def gating(self, split: str) -> Rule:
        """Return the effective gating rule of a split."""
        return effective_gating(self.method, self.protocol.gating(split, self.dataset.training_splits))

    def index(self, split: str, masks: bool = True) -> SplitIndex:
        """Return a checked split; `masks` where its pixels are needed later."""
        source = self._label_source(split)
        masks = self.is_scored(split) and (masks or source == "masks")
        return self.inputs.split(self.dataset, split, source, masks, self.spec.limit)

    def labels(self, split: str, masks: bool = True) -> Node:
        """Add the image labels of a split."""
        if (split, masks) not in self._labels:
            self._labels[split, masks] = self._new_labels(split, masks)
        return self._labels[split, masks]

    def _new_labels(self, split: str, masks: bool) -> Node:
        index = self.index(split, masks)
        config = configs.LabelsConfig(
            dataset=self.spec.dataset, split=split, limit=self.spec.limit, masks=index.masks,
            class_ids=self.class_ids, label_source=self._label_source(split),
            background_label=self.protocol.background_label, content=index.digest,
        )  # fmt: skip
        node = self._add("labels", config, [], f"{self.spec.dataset}/{split}")
        if node.key not in self.graph.pictures:
            paths = (self.dataset.image_path(image_id) for image_id in index.ids)
            self.graph.pictures[node.key] = tuple(str(path.absolute()) for path in paths)
            self.graph.contents[node.key] = index.pictures
        return node

    def fit(self) -> Node:
        """Add the training."""
        assert self.protocol.fit_split
        config = configs.FitConfig(
            **self._method(), params=_fit_params(self.method, self.spec.params), timm=self.timm,
            weights=self.weights.sha256 or self.weights.source, num_classes=len(self.class_ids), seed=self.spec.seed,
            keep_epochs=self.protocol.checkpoint.kind != "last",
            checkpoint=self.checkpoint.sha256 if self.checkpoint else "",
        )  # fmt: skip
        return self._add("fit", config, [self.labels(self.protocol.fit_split, masks=False)], self.title)

    @cached_property
    def model(self) -> list[Node]:
        """Add the training, and the choice of its epoch where the protocol makes one."""
        chosen = self.protocol.checkpoint
        if chosen.kind == "last":
            return [self.fit()]
        splits = self.protocol.eval_splits
        no_use = (*self.dataset.training_splits, *self.dataset.blind_splits)
        held_out = next((split for split in splits if split not in no_use), None)
        if held_out is None:
            raise UserError(f"checkpoint {chosen} needs a held-out split among {', '.join(splits)}")
        config = configs.SelectConfig(
            **self._method(), rule=chosen.kind, split=held_out, params=self.spec.params, timm=self.timm,
            num_classes=len(self.class_ids), seed=self.spec.seed, class_ids=self.class_ids,
            size=self.spec.params.get("image_size", self.spec.params["inference_size"]), scales=(1.0,),
            flip="none", labels_given=False, oracle=False, rules=self._rules(held_out),
            patience=None if chosen.value is None else int(chosen.value),
        )  # fmt: skip
        fit = self.fit()
        return [fit, self._add("select", config, [fit, self.labels(held_out)], f"{self.title} {held_out}")]

    def score(self, split: str) -> Node:
        """Add the score maps of a split, from the trained model or from a folder."""
        given, protocol = self._given(split), self.protocol
        if self.method.external:
            indices = [self.index(name, self._sees_pixels(name)) for name in self.splits]
            content = self.inputs.brought(self.cell, self.method, self.class_ids, indices)
            brought = configs.ExternalScoreConfig(
                method=self.spec.method, params=self.spec.params, external=content, class_ids=self.class_ids
            )
            return self._add("score", brought, [given], f"{self.title} {split}")
        config = configs.ScoreConfig(
            **self._method(), params=self.spec.params, size=protocol.size or self.spec.params["inference_size"],
            scales=protocol.scales, flip=protocol.flip, class_ids=self.class_ids,
            labels_given=self.method.conditions_on_labels and self.gating(split).kind == "gt",
            oracle="masks" in self.method.supervision,
        )  # fmt: skip
        return self._add("score", config, [*self.model, given], f"{self.title} {split}")

    def curve(self, split: str, score: Node) -> Node:
        """Add what the score maps of a split are worth over all thresholds."""
        background = self.background if self.background.kind == "model" else Rule("fixed", 0.0)
        rules = replace(self._rules(split), background=background)
        config = configs.CurveConfig(dataset=self.spec.dataset, class_ids=self.class_ids, rules=rules)
        return self._add("curve", config, [score, self.labels(split)], f"{self.title} {split}")

    def masks(self, split: str) -> list[Node]:
        """Add the pseudo-masks of a split, by shard."""
        score = self.score(split)
        return [self.mask(split, shard, score) for shard in range(self._shards(split))]

    def mask(self, split: str, shard: int, score: Node) -> Node:
        """Add the pseudo-masks of a shard."""
        config = configs.MaskConfig(
            class_ids=self.class_ids, shard=shard, rules=self._rules(split), refine=self.refiner
        )
        parents = [score, self._given(split)]
        if self.background.kind == "swept_on":
            swept = self.background.value
            parents.append(self.curve(swept, self.score(swept)))
        label = f"{self.title} {split} {self.protocol.refine}{self._number(split, shard)}"
        return self._add("mask", config, parents, label)

    def verify(self) -> Node:
        """Add the training of the verifier on the pseudo-masks of a split."""
        assert self.spec.verifier
        assert self.protocol.mask_split
        split = self.protocol.mask_split
        recipe = {key: value for key, value in self.spec.verifier.items() if key not in _TESTING}
        config = configs.VerifyConfig(
            recipe=recipe, weights=self.start.sha256 or self.start.source, class_ids=self.class_ids,
            seed=self.spec.seed, precision=self.protocol.precision,
        )  # fmt: skip
        parents = [self._given(split), *self.masks(split)]
        return self._add("verify", config, parents, f"{self.title} {split} {self.protocol.verify}")

    def segment(self, split: str, shard: int, verify: Node) -> Node:
        """Add the masks that the verifier predicts of a shard."""
        assert self.spec.verifier
        config = configs.SegmentConfig(
            recipe={key: self.spec.verifier[key] for key in _TESTING}, class_ids=self.class_ids, shard=shard,
            refine=refiner_config(self.inputs.registry, self.spec.verifier["refine"]),
            precision=self.protocol.precision,
        )  # fmt: skip
        label = f"{self.title} {split} {self.protocol.verify}{self._number(split, shard)}"
        return self._add("segment", config, [verify, self.labels(split)], label)

    def evaluate(self, split: str, mask: Node) -> Node:
        """Add the confusion matrices of a shard."""
        config = configs.EvaluateConfig(dataset=self.spec.dataset, class_ids=self.class_ids, shard=mask.config.shard)
        return self._add("evaluate", config, [mask, self.labels(split)], mask.label)

    def _add(self, stage: str, config: configs.Config, parents: list[Node], label: str) -> Node:
        read = {STAGES[stage].role(parent): parent.key for parent in parents}
        node = Node(stage, config, read, label, self.resources)
        self.keys.append(node.key)
        if stage in self.foreign:
            self.graph.foreign.add(node.key)
        return self.graph.nodes.setdefault(node.key, node)

    def _mask_splits(self) -> list[str]:
        return [self.protocol.mask_split] if self.spec.verifier and self.protocol.mask_split else []

    def _foreign(self) -> set[str]:
        """Return the stages that run code which did not come with the harness."""
        origin = self.inputs.registry.entry("method", self.spec.method).origin
        found = set() if origin == BUILT_IN else {"fit", "select", "score"}
        if self.refiner and self.inputs.registry.entry("refiner", self.refiner["name"]).origin != BUILT_IN:
            found.add("mask")
        return found

    def _needs_masks(self) -> bool:
        sources = (self.protocol.label_source, self.protocol.background_label)
        return "masks" in sources or self.background.kind == "swept_on"

    def _label_source(self, split: str) -> str:
        assert self.protocol.label_source
        return NO_LABELS if split in self.dataset.blind_splits else self.protocol.label_source

    def is_scored(self, split: str) -> bool:
        """Return whether a split has ground truth to be scored against."""
        return self.dataset.has_masks and split not in self.dataset.blind_splits

    def _given(self, split: str) -> Node:
        """Add the image labels of a split that masks are made of; its pixels are looked at only where they must be."""
        return self.labels(split, self._sees_pixels(split))

    def _sees_pixels(self, split: str) -> bool:
        swept = self.background == Rule("swept_on", split)
        return split in self.protocol.eval_splits or swept or "masks" in self.method.supervision

    def _number(self, split: str, shard: int) -> str:
        return f" {shard + 1}/{self._shards(split)}" if self._shards(split) > 1 else ""

    def _shards(self, split: str) -> int:
        return -(-len(self.index(split, self._sees_pixels(split)).ids) // SHARD)

    def _method(self) -> dict[str, str]:
        return {
            "dataset": self.spec.dataset, "method": self.spec.method, "version": self.version,
            "precision": self.protocol.precision,
        }  # fmt: skip

    def _rules(self, split: str) -> Rules:
        protocol = self.protocol
        return Rules(self.gating(split), protocol.normalisation, self.background, protocol.align_corners)


def _fit_params(method: Method, params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that training depends on: all but those marked as of the stage `score`."""
    marks = {name: field.json_schema_extra for name, field in method.Params.model_fields.items()}
    return {name: value for name, value in params.items() if marks[name] != {"stage": "score"}}
