"""Golden values of AFA."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.afa import AFA, AFANet, AFAParams, Spread, affinity_loss, transition, window

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


def test_pairs_of_one_half() -> None:
    labels = torch.tensor([[[0, 255], [1, 255]]])  # two pairs with themselves, two with each other
    affinity = torch.full((1, 4, 4), 0.5)
    near = torch.ones(4, 4, dtype=torch.bool)
    assert float(affinity_loss(affinity, labels, near)) == pytest.approx((1 / 3 + 1 / 3) / 2)
    four = torch.tensor([[[0, 0]]])
    like = float(affinity_loss(affinity[:, :2, :2], four, near[:2, :2]))
    assert 2 * like == pytest.approx(0.4)  # four pairs of equal labels


def test_columns_lose_a_little() -> None:
    weights = transition(torch.ones(1, 4, 4), torch.ones(4, 4, dtype=torch.bool))
    assert weights.sum(1).flatten().tolist() == pytest.approx([4 / 4.1] * 4)


def test_places_are_near_within_a_square() -> None:
    near = window(32, 32, 8)
    assert near[16 * 32 + 16].sum() == 289
    assert near[0].sum() == 81
    assert near.diagonal().all()


def test_scores_spread_where_affinity_is() -> None:
    affinity = torch.eye(4)[None].clone()
    affinity[0, 0, 1] = affinity[0, 1, 0] = 1
    scores = torch.tensor([1.0, 0, 0, 0]).view(1, 2, 2)
    found = Spread(affinity, torch.ones(4, 4, dtype=torch.bool), (2, 2))(scores[None])[0]
    assert found.flatten().tolist() == pytest.approx([1 / 2.1, 1 / 2.1, 0, 0])


@pytest.fixture
def net() -> AFANet:
    torch.manual_seed(0)
    return AFANet(build_backbone("test_vit", Weights("random")), 4)


def test_affinities_are_symmetric_and_between_patches(net: AFANet) -> None:
    with torch.no_grad():
        seen = net.eval()(torch.rand(2, 3, 64, 64), affinity=True)
    assert seen["affinity"].shape == (2, 16, 16)
    assert torch.allclose(seen["affinity"], seen["affinity"].transpose(1, 2), atol=1e-5)
    assert seen["segmentation"].shape == (2, 4, 4, 4)


def test_what_learns_when(net: AFANet) -> None:
    method = AFA(AFAParams(image_size=64, segment_from=0.5, spread_from=0.75))
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    names = [list(method.training_step(net.train(), batch, Step(0, 1, n, 4))) for n in (0, 2, 3)]
    assert names == [["cls"], ["cls", "affinity", "segmentation"], ["cls", "affinity", "segmentation"]]


def test_norms_of_the_backbone_do_not_learn(net: AFANet) -> None:
    slow, fast = AFA(AFAParams()).phases(net)[0].groups
    chosen = {id(parameter) for parameter in (*slow["params"], *fast["params"])}
    norms = [m for m in net.backbone.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms
    assert not any(id(parameter) in chosen for norm in norms for parameter in norm.parameters())
