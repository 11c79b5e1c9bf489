"""The stages of one cell: their configurations and their dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.cell import Cell
from harness.data.index import ImageFile
from harness.errors import UserError
from harness.inputs import Inputs
from harness.method import Method, Refiner
from harness.rules import Rule, Rules
from harness.run.opened import OpenedCell
from harness.spec import refiner_config
from harness.stages import STAGES, Node, configs

_TESTING = ("test_scales", "test_flip", "refine")  # what a recipe says of the test: nothing is trained anew for it


@dataclass
class Graph:
    """Stages that cells share, and the images that they open.

    Attributes
    ----------
    nodes : dict
        Every stage once, by key, parents before children.
    image_paths : dict
        The image files of each split, by the key of its labels.
    contents : dict
        What the check pass found in them.
    foreign : set of str
        Keys of the stages that run code of a plugin, given or installed: each gets a process of its own.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    image_paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contents: dict[str, tuple[ImageFile, ...]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)


class CellGraph(OpenedCell):
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
        super().__init__(inputs, cell)
        self.graph = graph
        self.keys: list[str] = []
        self._labels: dict[tuple[str, bool], Node] = {}

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
        if self.fit_refiner:
            model["fit_refiner"] = self.fit_refiner.key
        if self.spec.verifier:
            verify = self.verify()
            model[verify.stage] = verify.key
            for split, place in splits.items():
                segments = [self.segment(split, shard, verify) for shard in range(self.shards(split))]
                place["segment"] = [segment.key for segment in segments]
                if self.is_scored(split):
                    place["verification"] = [self.evaluate(split, segment).key for segment in segments]
        return {"fit": None, **model, "splits": splits}

    def labels(self, split: str, masks: bool = True) -> Node:
        """Add the image labels of a split."""
        if (split, masks) not in self._labels:
            self._labels[split, masks] = self._new_labels(split, masks)
        return self._labels[split, masks]

    def _new_labels(self, split: str, masks: bool) -> Node:
        index = self.index(split, masks)
        config = configs.LabelsConfig(
            dataset=self.spec.dataset, split=split, limit=self.spec.limit, masks=index.masks,
            class_ids=self.class_ids, label_source=self.label_source(split),
            background_label=self.protocol.background_label, content=index.digest,
        )  # fmt: skip
        node = self._add("labels", config, [], f"{self.spec.dataset}/{split}")
        if node.key not in self.graph.image_paths:
            paths = (self.dataset.image_path(image_id) for image_id in index.ids)
            self.graph.image_paths[node.key] = tuple(str(path.absolute()) for path in paths)
            self.graph.contents[node.key] = index.images
        return node

    def fit(self) -> Node:
        """Add the training, and those of the methods that it starts from."""
        return self._fit(self._lineage(), self.checkpoint.sha256 if self.checkpoint else "")

    def _fit(self, of: configs.Ancestor, checkpoint: str = "") -> Node:
        assert self.protocol.fit_split
        config = configs.FitConfig(
            dataset=self.spec.dataset, precision=self.protocol.precision, method=of.method, version=of.version,
            params=of.params, timm=self.timm, weights=self.weights.sha256 or self.weights.source,
            num_classes=len(self.class_ids), seed=self.spec.seed, parent=of.parent,
            keep_epochs=self.protocol.checkpoint.kind != "last", checkpoint=checkpoint,
        )  # fmt: skip
        roles = {"parent": self._fit(of.parent).key} if of.parent else {}
        title = self.title if of.method == self.spec.method else f"{of.method} for {self.title}"
        return self._add("fit", config, [self.labels(self.protocol.fit_split, masks=False)], title, roles)

    def _lineage(self) -> configs.Ancestor:
        """Return the cell's method with what its training depends on, and the methods that it starts from."""

        def ancestor(method: str, params: dict[str, Any], parent: dict[str, Any] | None) -> configs.Ancestor:
            registry = self.inputs.registry
            return configs.Ancestor(
                method=method,
                version=registry.source_version("method", method),
                params=_fit_params(registry.load("method", method), params),
                parent=ancestor(**parent) if parent else None,
            )

        return ancestor(self.spec.method, self.spec.params, self.spec.parent)

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
            **self._method(), parent=self._lineage().parent, rule=chosen.kind, split=held_out,
            params=self.spec.params, timm=self.timm,
            num_classes=len(self.class_ids), seed=self.spec.seed, class_ids=self.class_ids,
            size=self.spec.params.get("image_size", self.spec.params["inference_size"]), scales=(1.0,),
            flip="none", labels_given=False, oracle=False, rules=self.rules(held_out),
            patience=None if chosen.value is None else int(chosen.value),
        )  # fmt: skip
        fit = self.fit()
        return [fit, self._add("select", config, [fit, self.labels(held_out)], f"{self.title} {held_out}")]

    def score(self, split: str) -> Node:
        """Add the score maps of a split, from the trained model or from a folder."""
        given, protocol = self._given(split), self.protocol
        if self.method.external:
            indices = [self.index(name, self.sees_pixels(name)) for name in self.splits]
            content = self.inputs.brought(self.cell, self.method, self.class_ids, indices)
            brought = configs.ExternalScoreConfig(
                method=self.spec.method, params=self.spec.params, external=content, class_ids=self.class_ids
            )
            return self._add("score", brought, [given], f"{self.title} {split}")
        config = configs.ScoreConfig(
            **self._method(), params=self.spec.params, size=protocol.size or self.spec.params["inference_size"],
            scales=protocol.scales, flip=protocol.flip, merge=protocol.merge, class_ids=self.class_ids,
            labels_given=self.method.conditions_on_labels and self.gating(split).kind == "gt",
            oracle="masks" in self.method.supervision,
        )  # fmt: skip
        return self._add("score", config, [*self.model, given], f"{self.title} {split}")

    def curve(self, split: str, score: Node) -> Node:
        """Add what the score maps of a split are worth over all thresholds."""
        background = self.background if self.background.kind == "model" else Rule("fixed", 0.0)
        rules = replace(self.rules(split), background=background)
        config = configs.CurveConfig(dataset=self.spec.dataset, class_ids=self.class_ids, rules=rules)
        return self._add("curve", config, [score, self.labels(split)], f"{self.title} {split}")

    def masks(self, split: str) -> list[Node]:
        """Add the pseudo-masks of a split, by shard."""
        learned = [self.fit_refiner] if self.fit_refiner else []
        if self.refiner and self.refiner_class:
            refiner = self.refiner_class(self.refiner_class.Params.model_validate(self.refiner["params"]))
            if lacks := refiner.missing(self.index(split, self.sees_pixels(split)).ids):
                raise UserError(f"{self.protocol.refine} on {self.dataset.name}/{split}: {lacks}")
        return self._masks(split, self.rules(split), self.protocol.refine, self.refiner, learned)

    def _masks(
        self, split: str, rules: Rules, title: str, refine: dict[str, Any] | None, learned: Sequence[Node] = ()
    ) -> list[Node]:
        parents = [self.score(split), self._given(split), *learned]
        if rules.background.kind == "swept_on":
            swept = rules.background.value
            parents.append(self.curve(swept, self.score(swept)))
        made = []
        for shard in range(self.shards(split)):
            config = configs.MaskConfig(class_ids=self.class_ids, shard=shard, rules=rules, refine=refine)
            label = f"{self.title} {split} {title}{self._number(split, shard)}"
            made.append(self._add("mask", config, parents, label))
        return made

    @cached_property
    def fit_refiner(self) -> Node | None:
        """Add the training of the refiner, where it learns, and the pseudo-masks that it learns from."""
        if self.refiner is None or self.refiner_class is None or not self.refiner_class.trained:
            return None
        split, registry = self.protocol.fit_split, self.inputs.registry
        assert split
        params = self.refiner_class.Params.model_validate(self.refiner["params"])
        roles: dict[str, str] = {}
        for number, text in enumerate(self.refiner_class(params).learns_from()):
            background, _, refine = text.partition("+")
            rules = self.rules(split)
            if rules.background.kind != "model":
                rules = replace(rules, background=Rule.parse(background))
            nodes = self._masks(split, rules, text, refiner_config(registry, refine or "none"))
            roles |= {f"pseudo/{number}/{node.config.shard}": node.key for node in nodes}
        backbone = self.refiner["params"]["backbone"] or self.spec.backbone
        timm, weights = self.inputs.backbone(self.refiner_class, backbone, self.cell.weights)
        trained = self.refiner | {"params": _fit_params(self.refiner_class, self.refiner["params"])}
        config = configs.FitRefinerConfig(
            refiner=trained, timm=timm, weights=weights.sha256 or weights.source, class_ids=self.class_ids,
            seed=self.spec.seed, precision=self.protocol.precision,
        )  # fmt: skip
        return self._add("fit_refiner", config, [self._given(split)], f"{self.title} {self.protocol.refine}", roles)

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

    def _add(
        self,
        stage: str,
        config: configs.Config,
        parents: list[Node],
        label: str,
        roles: Mapping[str, str] | None = None,
    ) -> Node:
        read = {STAGES[stage].role(parent): parent.key for parent in parents} | dict(roles or {})
        node = Node(stage, config, read, label, self.resources)
        self.keys.append(node.key)
        if stage in self.foreign:
            self.graph.foreign.add(node.key)
        return self.graph.nodes.setdefault(node.key, node)

    def _given(self, split: str) -> Node:
        """Add the image labels of a split that masks are made of; its pixels are looked at only where they must be."""
        return self.labels(split, self.sees_pixels(split))

    def _number(self, split: str, shard: int) -> str:
        return f" {shard + 1}/{self.shards(split)}" if self.shards(split) > 1 else ""

    def _method(self) -> dict[str, Any]:
        return {
            "dataset": self.spec.dataset, "method": self.spec.method, "version": self.version,
            "precision": self.protocol.precision,
        }  # fmt: skip


def _fit_params(plugin: type[Method] | type[Refiner], params: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that training depends on: all but those marked as of the stage where the model is used."""
    used = {"stage": "score" if plugin.kind == "method" else "mask"}
    marks = {name: field.json_schema_extra for name, field in plugin.Params.model_fields.items()}
    return {name: value for name, value in params.items() if marks[name] != used}
