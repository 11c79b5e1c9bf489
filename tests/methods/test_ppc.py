"""Golden values of PPC."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from wsss_methods.ppc import PPC, PPCNet, PPCParams, hardest, prototypes, scored

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2, 4), (0, 0.25, 0.5, 1)),
        ((1, 1, 2, 4), (-0.3333, -0.3333, 0.3333, 1)),
        ((0, 0, 0, 0), (-1, -1, -1, -1)),
    ],
)
def test_maps_are_stretched_as_the_authors_do(values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found = scored(torch.tensor([[0, 0, 0, 0], values], dtype=torch.float32).view(1, 2, 2, 2), 0.2)
    assert found[0, 0].unique().tolist() == pytest.approx([0.2])
    assert found[0, 1].flatten().tolist() == pytest.approx(expected, abs=1e-3)


def test_prototypes_are_means_of_the_strongest_pixels() -> None:
    features = torch.eye(3)[[0, 0, 1, 1, 2, 2]].T.view(1, 3, 2, 3)
    maps = torch.tensor([[0.2] * 6, [1, 0.5, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]).view(1, 3, 2, 3)
    background, first, second = prototypes(maps, features, 2)
    assert background.tolist() == [0, 0, 1]  # where both classes are weakest
    assert first.tolist() == [1, 0, 0]
    assert second.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("count", "ranks"), [(10, range(1, 6)), (20, range(2, 12)), (7, range(1, 4))])
def test_the_very_hardest_are_left_out(count: int, ranks: range) -> None:
    costs = torch.zeros(count)
    costs[0] = 1000.0  # the hardest; it may be drawn, but is never among the hard ones
    torch.manual_seed(0)
    without = [float(hardest(costs, torch.zeros(count, dtype=torch.long), 3)) for _ in range(60)]
    assert min(without) == 0
    costs = torch.arange(count, 0, -1).float()
    mean = sum(float(hardest(costs, torch.zeros(count, dtype=torch.long), 3)) for _ in range(3000)) / 3000
    hard = [count - rank for rank in ranks]
    assert mean == pytest.approx((sum(hard) / len(hard) + costs.mean().item()) / 2, abs=0.1)


def test_a_class_of_one_pixel_costs_nothing_and_counts() -> None:
    costs, labels = torch.tensor([5.0, 2.0, 2.0]), torch.tensor([0, 1, 1])
    assert float(hardest(costs, labels, 3)) == 1.0


class Equal(PPCNet):
    """Pixels that are all alike."""

    def with_pixels(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps, refined, pixels = super().with_pixels(images)
        return maps, refined, torch.ones_like(pixels) + 0 * pixels


def test_pixels_that_are_all_alike_cost_what_21_classes_are_worth() -> None:
    torch.manual_seed(0)
    method = PPC(PPCParams(image_size=64, second_side=64))
    net = Equal(build_backbone("test_resnet", Weights("random")), 21, 0.0)
    labels = torch.zeros(2, 21)
    labels[:, [0, 3, 7]] = 1
    losses = method.training_step(net, Batch(torch.rand(2, 3, 64, 64), labels, ["a", "b"]), Step(0, 1, 0, 1))
    own = losses["cross"] + losses["labels"] + losses["within"]
    assert own.item() == pytest.approx(0.1 * (2 * math.log(21) + math.log(11)), abs=1e-4)


def test_prototypes_learn_nothing_and_pixels_teach_the_backbone() -> None:
    torch.manual_seed(0)
    method = PPC(PPCParams(image_size=64, second_side=64))
    net: nn.Module = method.build(build_backbone("test_resnet", Weights("random")), 4).train()
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = method.training_step(net, batch, Step(0, 1, 0, 1))
    (losses["cross"] + losses["labels"] + losses["within"]).backward()
    reached = {name.partition(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"backbone", "project"}
