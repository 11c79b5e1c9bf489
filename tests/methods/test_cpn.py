"""Golden values of CPN."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.cpn import CPN, CPNNet, CPNParams, likeness
from wsss_methods.field import with_background
from wsss_methods.seam import spread

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

METHOD = CPN(CPNParams())


def rest(whole: torch.Tensor, part: torch.Tensor, other: torch.Tensor) -> float:
    maps = [with_background(one) for one in (whole, part, other)]
    return float(METHOD._rest(maps[0] - maps[1], maps[2]))


def test_empty_maps_do_not_agree() -> None:
    empty = torch.zeros(1, 20, 8, 8)
    assert rest(empty, empty, empty) == pytest.approx(64 / 268)


def test_a_perfect_split_of_a_class_agrees_even_less() -> None:
    whole = torch.zeros(1, 20, 8, 8)
    whole[:, 3] = 1
    left, right = whole.clone() / 2, whole.clone() / 2
    left[..., 4:], right[..., :4] = 0, 0
    assert rest(whole, left, right) == pytest.approx(0.2985, abs=1e-4)


def test_halves_that_add_up_cost_nothing() -> None:
    maps = torch.rand(1, 3, 6, 6)
    maps[:, :, 0, 0], maps[:, :, 5, 5] = 0, 1
    losses = METHOD.complementary([(maps, maps)] * 3, torch.tensor([0.3]), torch.ones(1, 3))
    assert losses["tcp"].item() == pytest.approx(0, abs=1e-6)


def test_pixels_that_look_alike_share_a_class() -> None:
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[..., 1, 2] = 1
    pixels = torch.ones(1, 8, 4, 4)
    assert likeness(torch.rand(1, 1, 8), pixels).unique().tolist() == pytest.approx([0.0625])
    improved = spread(impulse, pixels) + impulse * likeness(torch.rand(1, 1, 8), pixels)
    assert float(improved[0, 0, 1, 2]) == pytest.approx(0.125, abs=1e-4)
    assert float(improved[0, 0, 0, 0]) == pytest.approx(0.0625, abs=1e-4)


def test_the_halves_are_complementary_and_as_large_as_asked() -> None:
    torch.manual_seed(0)
    shown = METHOD._shown(torch.zeros(8, 3, 448, 448))
    assert shown.shape == (8, 1, 448, 448)
    assert float(shown.float().mean()) == pytest.approx(0.61, abs=0.03)
    assert shown[0, 0, :28, :28].unique().numel() == 1


def test_improved_maps_teach_four_layers() -> None:
    torch.manual_seed(0)
    net = CPNNet(build_backbone("test_resnet", Weights("random")), 4, 0.0)
    net(torch.rand(2, 3, 64, 64))[1].square().sum().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"near.weight", "far.weight", "joint.weight", "region.weight"}


def test_a_step_has_finite_losses() -> None:
    net = METHOD.build(build_backbone("test_resnet", Weights("random")), 4)
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = METHOD.training_step(net, batch, Step(0, 1, 0, 1))
    assert list(losses) == ["cls", "min", "tcp", "cpcr"]
    assert all(torch.isfinite(loss) for loss in losses.values())
