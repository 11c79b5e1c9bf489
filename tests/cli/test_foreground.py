"""Table D in small: attention heads, their best, and the report that tells them apart."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from harness.backbones import Weights, build_backbone
from harness.metrics import Confusions
from harness.results.store import Store
from tests.conftest import Run

EXPERIMENT = """
summary: two heads and their mean
report: foreground
run:
  - methods: dino
    backbones: "timm:test_vit"
    protocols: vitpcm
    limit: 8
    set: {protocol.eval_splits: val, dino.inference_size: 64}
    each: [{}, {dino.heads: 0}, {dino.heads: 1}]
"""


def test_the_best_head_is_chosen_for_each_object(here: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_backbone("test_vit", Weights("random")).net
    network.blocks[-1].attn.qkv.weight.data *= 5  # heads that look at places of their own
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "heads.yaml").write_text(EXPERIMENT)
    ran = here("run", "--experiment", "heads.yaml", "--weights", "weights.safetensors")
    assert ran.returncode == 0, ran.stderr
    here("report", "heads.yaml", "--images", "0", "--no-figures")
    report = (tmp_path / "results" / "report" / "report.md").read_text()
    rows = {cells[2]: cells for line in report.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 8}
    store = Store(tmp_path / "results")
    records = {record["spec"]["params"]["heads"]: record for record in store.records()}
    for head, name in (("mean", "mean of the heads"), (0, "head 0"), (1, "head 1")):
        assert rows[name][8] == f"{100 * records[head]['metrics']['val']['objects']:.1f}"
    assert rows["best head of 2"][8] == f"{100 * best_by_hand(store, [records[0], records[1]]):.1f}"
    assert float(rows["best head of 2"][8]) > max(float(rows[name][8]) for name in ("head 0", "head 1"))


def best_by_hand(store: Store, records: list[dict]) -> float:  # type: ignore[type-arg]
    """The mean over images of the mean over objects of the best head's Jaccard, one entry at a time."""
    heads = []
    for record in records:
        (key,) = record["artefacts"]["splits"]["val"]["evaluate"]
        heads.append(Confusions.load(store.need("evaluate", key).file("confusion.npy")))
    images = []
    for image in range(heads[0].images):
        objects = []
        for klass in range(1, heads[0].classes):
            found = []
            for head in heads:
                own = head.entries[head.entries[:, 0] == image]
                size = sum(n for _, true, _, n in own if true == klass)
                hit = sum(n for _, true, guess, n in own if true == klass and 0 < guess < head.classes)
                outside = sum(n for _, true, guess, n in own if true != klass and 0 < guess < head.classes)
                found.append(hit / (size + outside) if size else None)
            objects += [max(found)] if None not in found else []
        images += [sum(objects) / len(objects)] if objects else []
    return sum(images) / len(images)
