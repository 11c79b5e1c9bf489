"""Golden values of DuPL."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.dupl import DuPL, DuPLParams, likeness, mixture
from wsss_methods.single_stage import split_loss

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


@pytest.fixture
def method() -> DuPL:
    return DuPL(DuPLParams(image_size=64, enough=20, sure=0.0))


def test_features_that_are_equal_orthogonal_and_opposed() -> None:
    one = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    other = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert [float(likeness(one, second)) for second in (one, other, -one)] == pytest.approx([4, 2, 0])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, 2, 8, 28, 28, generator=generator)
    assert float(likeness(*drawn)) == pytest.approx(3.5, abs=0.05)  # positive ones are never far apart


def test_both_sides_learn_to_differ() -> None:
    first, second = torch.rand(1, 4, 3, 3, requires_grad=True), torch.rand(1, 4, 3, 3, requires_grad=True)
    likeness(first, second).backward()
    assert first.grad is not None
    assert second.grad is not None


def losses(*groups: tuple[float, float, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = [mean + deviation * torch.randn(count, generator=generator) for mean, deviation, count in groups]
    return torch.cat(drawn)


def test_a_mixture_finds_two_groups() -> None:
    drawn = losses((0.4, 0.15, 3000), (3.0, 0.4, 400), (9.0, 1.0, 50))
    means, deviations, shares = mixture(drawn, torch.arange(len(drawn)) < 3400)  # the last are left aside
    assert means.tolist() == pytest.approx([0.4, 3.0], abs=0.05)
    assert deviations.tolist() == pytest.approx([0.15, 0.4], abs=0.05)
    assert shares.tolist() == pytest.approx([3000 / 3400, 400 / 3400], abs=0.01)


def costly(wanted: torch.Tensor) -> torch.Tensor:
    """Return (1, 3, 1, N) logits whose cross-entropy with class 1 is as wanted."""
    odds = torch.log(torch.expm1(wanted.double()))
    return torch.stack([torch.zeros_like(odds), -odds, torch.full_like(odds, -1e9)])[None, :, None].float()


def test_implausible_labels_are_left_out_and_the_best_ones_never(method: DuPL) -> None:
    near, far, best = losses((0.4, 0.1, 600)).clamp(min=0.15), losses((3.0, 0.4, 80)), torch.full((50,), 0.02)
    logits, labels = costly(torch.cat([near, far, best])), torch.ones(1, 1, 730, dtype=torch.int64)
    kept = method._filtered(logits, labels)[0, 0]
    assert (kept[600:680] == 255).all()
    assert (kept[680:] == 1).all()
    assert (kept[:600] == 1).float().mean() > 0.98
    # a wide second group reaches below the first: without a guard the authors' filter takes what fits best
    wide = torch.cat([losses((0.6, 0.05, 600)), losses((2.5, 1.2, 80)).clamp(min=0.7), torch.full((50,), 0.005)])
    assert (method._filtered(costly(wide), labels)[0, 0, 680:] == 1).all()
    background = torch.zeros_like(labels)
    assert torch.equal(method._filtered(logits, background), background)


def test_few_or_alike_losses_filter_nothing(method: DuPL) -> None:
    labels = torch.ones(1, 1, 300, dtype=torch.int64)
    assert torch.equal(method._filtered(costly(losses((0.5, 0.1, 300)).clamp(min=0.15)), labels), labels)
    assert torch.equal(method._filtered(costly(losses((3.0, 0.5, 20))), labels[..., :20]), labels[..., :20])


def test_a_loss_on_background_alone() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    assert float(split_loss(logits, torch.zeros(1, 2, 2, dtype=torch.int64))) == pytest.approx(0.5493, abs=1e-4)


def test_steps_of_all_stages_and_who_is_scored(method: DuPL) -> None:
    torch.manual_seed(0)
    model = method.build(build_backbone("test_vit", Weights("random")), 4).train()
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    first = method.training_step(model, batch, Step(0, 2, 0, 10))
    middle = method.training_step(model, batch, Step(0, 2, 1, 10))
    last = method.training_step(model, batch, Step(1, 2, 5, 10))
    assert list(first) == ["cls", "aux", "tokens", "discrepancy"]
    assert list(middle) == [*first, "segmentation"]
    assert list(last) == [*first, "consistency", "segmentation"]
    assert float(first["discrepancy"].detach()) == pytest.approx(0.4, abs=1e-3)  # equal backbones: 4
    sum(last.values()).backward()  # type: ignore[union-attr]
    assert all(q.grad is not None for student in model.students for q in student.new_parameters())
    scores, presence = method.score(model.eval(), batch.images, None)
    assert scores.shape[:2] == (2, 4)
    assert presence.shape == (2, 3)
    model.partner.segmentation[-1].weight.data.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(method.score(model, batch.images, None)[0], scores)
