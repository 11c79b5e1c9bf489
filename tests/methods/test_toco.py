"""Golden values of ToCo, and of what it shares with AFA."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional
from wsss_methods.single_stage import HalfSize, confident, split_loss, warm_poly
from wsss_methods.student import token_contrast
from wsss_methods.toco import ToCo, ToCoNet, ToCoParams, crop_contrast, cut, draw_places

from harness import Batch, Step
from harness.backbones import Weights, build_backbone
from tests.operations import operations

LABELS = torch.tensor([[[0, 0], [1, 1]]])


@pytest.fixture
def net() -> ToCoNet:
    torch.manual_seed(0)
    return ToCoNet(build_backbone("test_vit", Weights("random")), 4, -3)


def tokens(*vectors: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(vectors).T.view(1, 2, 2, 2)


def test_tokens_of_equal_labels_should_be_parallel() -> None:
    apart = tokens((1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0))
    assert float(token_contrast(apart, LABELS)) == pytest.approx(0.1)
    assert float(token_contrast(tokens(*[(1.0, 0.0)] * 4), LABELS)) == pytest.approx(0.5444, abs=1e-4)
    opposed = tokens((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    assert float(token_contrast(opposed, LABELS)) == pytest.approx(0.1)
    assert float(token_contrast(apart, torch.full((1, 2, 2), 255))) == 0.5


def test_views_that_tell_nothing() -> None:
    student, teacher = torch.zeros(1, 3, 4), torch.zeros(1, 2, 4)
    flags = torch.tensor([[True, True, False]])
    assert float(crop_contrast(student, teacher, flags, 0.5)) == pytest.approx(1.5 * math.log(2), abs=1e-3)
    assert float(crop_contrast(student[:, :2], teacher, flags[:, :2], 0.5)) == pytest.approx(1.5e-4, abs=3e-5)


def test_the_teacher_starts_equal_and_moves_a_tenth(net: ToCoNet) -> None:
    before = net.teacher.layers[0].weight.detach().clone()  # type: ignore[union-attr, operator]
    assert torch.equal(before, net.student.layers[0].weight)  # type: ignore[arg-type]
    net.student.layers[0].weight.data.add_(1)  # type: ignore[union-attr, operator]
    net.follow(0.9)
    assert torch.allclose(net.teacher.layers[0].weight, before + 0.1)  # type: ignore[arg-type, operator]


def test_crops_lie_inside_around_what_is_wanted_and_show_what_is_there() -> None:
    wanted = torch.zeros(2, 40, 50, dtype=torch.bool)
    wanted[0, 39, 49], wanted[1, 20, 25] = True, True
    places = draw_places(wanted, 16)
    assert places.tolist() == [[24, 34], [12, 17]]
    maps = torch.arange(2 * 40 * 50).view(2, 1, 40, 50).float()
    assert torch.equal(cut(maps, places, 16)[0, 0], maps[0, 0, 24:40, 34:50])


@pytest.mark.parametrize("labels", [torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.full((1, 2, 2), 255)])
def test_a_half_without_places_is_no_trouble(labels: torch.Tensor) -> None:
    loss = split_loss(torch.zeros(1, 3, 2, 2), labels.long())
    expected = 0.0 if labels[0, 0, 0] == 255 else math.log(3) / 2
    assert float(loss) == pytest.approx(expected)


def test_background_and_classes_have_half_each() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0, 0] = 5
    labels = torch.tensor([[[1, 0], [0, 255]]])
    first = functional.cross_entropy(logits[:, :, 0, 0], torch.tensor([1]))
    assert float(split_loss(logits, labels)) == pytest.approx((float(first) + math.log(3)) / 2)


def test_labels_of_maps() -> None:
    maps = torch.tensor([[0.8, 0.5, 0.1, 0.7], [0.1, 0.2, 0.2, 0.75]]).view(1, 2, 2, 2)
    assert confident(maps, 0.7, 0.25).flatten().tolist() == [1, 255, 0, 2]


def test_refined_labels_follow_colours_and_leave_padding_out() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1
    maps = torch.zeros(1, 2, 32, 32)
    maps[:, 1, :, 18:] = 1
    valid = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    valid[..., :4, :] = False
    batch = Batch(image, torch.tensor([[1.0, 0, 1]]), ["a"], valid)
    found = HalfSize(batch).labels(maps, 0.7, 0.25)
    assert found.shape == (1, 16, 16)
    assert (found[0, :2] == 255).all()
    assert (found[0, 3:, :7] == 0).all()
    assert (found[0, 3:, 10:] == 2).all()


def test_images_of_a_batch_are_refined_together_as_each_is_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 8, 6, 6, generator=generator)
    present = torch.tensor([[1.0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    images, maps = functional.interpolate(coarse, (48, 48), mode="bilinear").split((3, 5), 1)
    maps = maps * present[:, 1:, None, None]
    batches = [Batch(images[which], present[which], list("abcd")[which]) for which in (slice(0, 2), slice(0, 4))]
    found = HalfSize(batches[1]).labels(maps, 0.55, 0.35, torch.sqrt)
    alone = [
        HalfSize(Batch(images[i : i + 1], present[i : i + 1], ["a"])).labels(maps[i : i + 1], 0.55, 0.35, torch.sqrt)
        for i in range(4)
    ]
    assert torch.equal(found, torch.cat(alone))
    assert [labels.unique().tolist() for labels in found] == [[0, 2, 4, 255], [0, 1, 255], [0], [1, 2, 3, 4, 5, 255]]
    few, many = (operations(partial(labelled, batch, maps[: len(batch.ids)])) for batch in batches)
    assert few.done.total() == many.done.total()
    assert few.waited.total() == many.waited.total() == 1


def labelled(batch: Batch, maps: torch.Tensor) -> torch.Tensor:
    return HalfSize(batch).labels(maps, 0.55, 0.35)


def test_the_learning_rate_jumps_after_its_warm_up_as_the_authors_does() -> None:
    assert warm_poly(0.0, 0.075, 0.9) == 1e-6
    assert warm_poly(0.0749999, 0.075, 0.9) == pytest.approx(1, abs=1e-4)
    assert warm_poly(0.075, 0.075, 0.9) == pytest.approx(0.9322, abs=1e-4)


def test_a_step_before_and_after_the_head_learns(net: ToCoNet) -> None:
    method = ToCo(ToCoParams(image_size=64, local_crops=2, local_size=32, segment_from=0.5))
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    first = method.training_step(net.train(), batch, Step(0, 2, 0, 10))
    later = method.training_step(net, batch, Step(1, 2, 5, 10))
    assert list(first) == ["cls", "aux", "tokens", "crops"]
    assert list(later) == [*first, "segmentation"]
    assert all(torch.isfinite(loss) for loss in later.values())
    sum(later.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in net.teacher.parameters())
