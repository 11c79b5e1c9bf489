"""Golden values of CONTA's context, and what its halves of a round train."""

from __future__ import annotations

import pytest
import torch
from wsss_methods.cam import CAM, CAMNet, CAMParams
from wsss_methods.conta import CONTA, CONTANet, CONTAParams, Context, mixture

from harness import Batch, Step
from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]])


@pytest.fixture
def built() -> tuple[CONTA, CONTANet, CAMNet]:
    torch.manual_seed(0)
    backbones = [build_backbone("test_resnet", Weights("random")) for _ in range(3)]
    cam, same = (CAMNet(backbone, 2) for backbone in backbones[:2])
    same.load_state_dict(cam.state_dict())
    method = CONTA(CONTAParams(image_size=64, grid=4, rounds=2, epochs=1, segment_epochs=1))
    model = method.build_from(cam, backbones[2], 3)
    assert isinstance(model, CONTANet)
    return method, model, same


def test_the_context_is_the_mean_of_masks_that_go_with_the_image() -> None:
    means = torch.eye(2)
    found = mixture(torch.tensor([[1.0, 0.0]]), means, means)
    assert found.flatten().tolist() == pytest.approx([0.3349, 0.1651], abs=1e-4)


def test_without_masks_seen_there_is_no_context_and_the_maps_are_those_of_cam(
    built: tuple[CONTA, CONTANet, CAMNet],
) -> None:
    method, model, cam = built
    torch.nn.init.ones_(model.beside.weight)
    maps, presence = method.score(model.eval(), IMAGES, None)
    expected, known = CAM(CAMParams()).score(cam.eval(), IMAGES, None)
    assert torch.allclose(maps, expected)
    assert torch.allclose(presence, known)


def test_a_class_remembers_the_images_that_show_it() -> None:
    context = Context(2, 1)
    masks = torch.tensor([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.5, 0.0, 0.5], [0.9, 0.1, 0.0]])[:, :, None, None]
    context.observe(masks, LABELS[:, 1:], 0.5)
    assert context.means.flatten().tolist() == pytest.approx([0.3, 0.25])  # half of (.8 + .4) / 2, and of .5
    context.observe(masks[3:], LABELS[3:, 1:], 0.5)  # an image without a class
    assert context.means.flatten().tolist() == pytest.approx([0.3, 0.25])


def test_halves_of_rounds_train_one_network_each(built: tuple[CONTA, CONTANet, CAMNet]) -> None:
    method, model, _ = built
    batch = Batch(IMAGES, LABELS, list("abcd"), torch.ones(4, 1, 64, 64, dtype=torch.bool))
    phases = method.phases(model)
    assert len(phases) == 4
    for number, (phase, loss) in enumerate(zip(phases, ["segmentation", "bce"] * 2, strict=True)):
        model.zero_grad()
        losses = method.training_step(model, batch, Step(number, 4, number, 4, number))
        assert losses.keys() == {loss}
        losses[loss].backward()
        trained = {id(p) for group in phase.groups for p in group["params"]}
        touched = {id(p) for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert touched
        assert not touched - trained - {id(p) for p in model.backbone.parameters()}  # its first stages are detached
    assert model.context.means.abs().sum() > 0


def test_the_context_reaches_the_maps(built: tuple[CONTA, CONTANet, CAMNet]) -> None:
    method, model, _ = built
    model.context.means.copy_(torch.rand(2, 16))
    torch.nn.init.ones_(model.beside.weight)
    maps, _ = method.score(model.eval(), IMAGES, None)
    model.context.means.zero_()
    assert not torch.allclose(maps, method.score(model, IMAGES, None)[0])
