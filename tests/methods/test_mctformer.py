"""What binds MCTformer's tokens and maps, by hand and on a small ViT."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.mctformer import MCTformer, MCTformerParams, class_maps

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def built(classes: int = 5) -> tuple[MCTformer, torch.nn.Module]:
    torch.manual_seed(0)
    method = MCTformer(MCTformerParams(epochs=10, warmup_epochs=2))
    return method, method.build(build_backbone("test_vit", Weights("random")), classes).eval()


def test_equal_tokens_give_equal_logits_and_maps_and_a_loss_near_ln_2() -> None:
    method, model = built()
    with torch.no_grad():
        maps, presence = method.score(model, IMAGES, None)
        loss = method.training_step(model, Batch(IMAGES, torch.eye(5)[[1, 2, 3, 4]], list("abcd")), Step(0, 1, 0, 1))
    assert maps.shape == (4, 4, 4, 4)
    assert torch.allclose(maps, maps[:, :1].expand_as(maps), atol=1e-6)
    assert torch.allclose(presence, presence[:, :1].expand_as(presence), atol=1e-6)
    assert float(loss["bce"]) == pytest.approx(math.log(2), abs=0.2)


def test_labels_part_the_tokens() -> None:
    method, model = built()
    labels = torch.eye(5)[[1, 2, 3, 4]]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = method.training_step(model, Batch(IMAGES, labels, list("abcd")), Step(0, 1, 0, 1))["bce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        maps, _ = method.score(model, IMAGES, None)
    assert (maps - maps[:, :1]).abs().max() > 1e-5  # equal tokens stay below 1e-6


def test_maps_by_hand() -> None:
    """One class token and two patches; two blocks, of which the last makes the map and both the affinity."""
    first = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    last = torch.tensor([[[0.2, 0.6, 0.2], [0, 0.5, 0.5], [0, 0.5, 0.5]]])
    found = class_maps([first, last], 1, 1)
    assert found[0, 0].tolist() == pytest.approx([1.5 * 0.6 + 0.5 * 0.2, 0.5 * 0.6 + 1.5 * 0.2])


def test_the_learning_rate_warms_up_and_falls() -> None:
    method, _ = built()
    rates = [method._rate(done) * method.params.lr for done in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([1e-6, (1e-6 + 6.25e-5) / 2, 6.25e-5, (1e-5 + 6.25e-5) / 2, 1e-5])


def test_tokens_norms_and_biases_are_not_decayed() -> None:
    method, model = built()
    decayed, plain = method.phases(model)[0].groups
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert any(parameter is model.tokens for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_what_patches_say_is_multiplied_in_before_maps_spread() -> None:
    block = torch.tensor([[[0.2, 0.6, 0.2], [0, 0.5, 0.5], [0, 0.5, 0.5]]])
    found = class_maps([block], 1, 1, torch.tensor([[[2.0, 0.0]]]))
    assert found[0, 0].tolist() == pytest.approx([0.6, 0.6])


def test_the_second_version_tells_classes_apart_by_their_patches() -> None:
    torch.manual_seed(0)
    method = MCTformer(MCTformerParams(version=2))
    model = method.build(build_backbone("test_vit", Weights("random")), 5).eval()
    losses = method.training_step(model, Batch(IMAGES, torch.eye(5)[[1, 2, 3, 4]], list("abcd")), Step(0, 1, 0, 1))
    assert list(losses) == ["bce", "patches"]
    with torch.no_grad():
        maps, _ = method.score(model, IMAGES, None)
    assert (maps - maps[:, :1]).abs().max() > 1e-4
    assert len(method.phases(model)[0].groups[0]["params"]) > 0
