"""Which of a protocol's rules are effective for a method, and what ground truth the two use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.method import Method
from harness.protocol import Protocol
from harness.rules import Rule


def effective_gating(method: Method, rule: Rule) -> Rule:
    """Return the gating rule that is effective for a method.

    Finished masks are taken as they are, and a method that does not predict presence cannot be gated by it.
    """
    if method.output == "labels":
        return Rule("none")
    return Rule("none") if rule.kind == "predicted" and not method.predicts_presence else rule


UNSAID = Rule("fixed", 0.4)  # the background of a method whose source fixes none


def effective_background(method: Method, protocol: Protocol, family: str) -> Rule:
    """Return the background rule that is effective for a method on a family of backbones.

    That is its own channel where it has one, or else the protocol's, which may leave it to the method.

    Finished masks are taken as they are given.
    """
    if method.output == "labels":
        return Rule("given")
    if method.background:
        return Rule("model")
    if protocol.background.kind != "method":
        return protocol.background
    own = method.background_rule(family)
    return Rule.parse(own) if own else UNSAID


def ground_truth(
    method: Method, protocol: Protocol, training_splits: Sequence[str], gating: Mapping[str, Rule]
) -> list[dict[str, Any]]:
    """Return every use that a cell makes of ground truth before it is evaluated.

    Parameters
    ----------
    method : Method
    protocol : Protocol
    training_splits : sequence of str
        The splits whose image labels are allowed supervision.
    gating : mapping
        The effective gating rule, by split.

    Returns
    -------
    list of dict
        `what` is used of which `split` `for` what, and whether that is `allowed` to a method that is supervised by the
        image labels of training splits.
    """
    uses = []
    if not method.external and "image_labels" in method.supervision:
        source = f"image labels from {protocol.label_source}"
        uses.append({"what": source, "split": protocol.fit_split, "for": "training", "allowed": True})
    for split, rule in gating.items():
        if rule.kind == "gt":
            allowed = split in training_splits
            uses.append({"what": "image labels", "split": split, "for": "class gating", "allowed": allowed})
        if "masks" in method.supervision and split in protocol.eval_splits:
            uses.append({"what": "pixels", "split": split, "for": "the scores themselves", "allowed": False})
    if "masks" in method.supervision and protocol.verify != "none":
        trained_on = protocol.mask_split
        uses.append({"what": "pixels", "split": trained_on, "for": "the verifier's training", "allowed": False})
    if protocol.checkpoint.kind != "last":
        what = "pixels" if protocol.checkpoint.kind == "val_pixels" else "image labels"
        split = next(split for split in protocol.eval_splits if split not in training_splits)
        uses.append({"what": what, "split": split, "for": "the choice of the epoch", "allowed": False})
    if protocol.background.kind == "swept_on" and not method.background and method.output != "labels":
        uses.append(
            {"what": "pixels", "split": protocol.background.value, "for": "the background threshold", "allowed": False}
        )
    return uses
