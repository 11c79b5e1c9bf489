"""Golden values of SC-CAM: what is clustered, what it costs, how long a round is and where it starts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from wsss_methods.cam import CAMNet
from wsss_methods.sccam import SCCAM, SCCAMNet, SCCAMParams, SubLabels, clustered

from harness import Batch, Step, TrainingData
from harness.backbones import Weights, build_backbone

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1.0, 1, 0, 1], [1, 0, 0, 1]])
SMALL = {"image_size": 32, "batch_size": 4, "sub_classes": 2, "lr": 0.1}


def built(**params: object) -> tuple[SCCAM, SCCAMNet, CAMNet]:
    torch.manual_seed(0)
    parent, backbone = (build_backbone("test_resnet", Weights("random")) for _ in range(2))
    method, cam = SCCAM(SCCAMParams.model_validate(SMALL | params)), CAMNet(parent, 3)
    model = method.build_from(cam, backbone, 4)
    assert isinstance(model, SCCAMNet)
    return method, model, cam


@pytest.fixture
def two_kinds(tmp_path: Path) -> TrainingData:
    """One class, of which half the images are dark and half are bright, by turns."""
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 30, (40, 50, 3), np.uint8)
        Image.fromarray(noise + 200 * np.uint8(number % 2)).save(tmp_path / f"{number}.png")
    ids = [str(number) for number in range(8)]
    labels = torch.tensor([[1.0, 0, 1, 0]]).repeat(8, 1)
    return TrainingData(ids, labels, [tmp_path / f"{name}.png" for name in ids])


def test_each_class_is_clustered_among_its_own_images() -> None:
    features = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    found = clustered(features, torch.tensor([[1.0, 0], [1, 0], [1, 1], [1, 0]]), 2).view(4, 2, 2)
    assert found[:, 0].sum(1).tolist() == [1, 1, 1, 1]
    assert torch.equal(found[0, 0], found[1, 0])
    assert torch.equal(found[2, 0], found[3, 0])
    assert not torch.equal(found[1, 0], found[2, 0])
    assert found[:, 1].tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]  # one image, so one sub-class


def test_sub_labels_of_two_classes_stand_class_by_class() -> None:
    """Three classes in two clusters each; the first image shows the first class and the last."""
    present = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 0, 1]])
    found = clustered(torch.tensor([[0.0], [9.0], [9.0]]), present, 2)
    assert found.shape == (3, 6)
    assert found[0].view(3, 2).sum(1).tolist() == [1, 0, 1]
    assert (found[0] + found[1]).tolist() == [1, 1, 0, 0, *found[0, 4:].tolist()]


def test_logits_of_zero_cost_six_times_ln_2() -> None:
    method, model, _ = built()
    for classifier in (model.classifier, model.sub_classifier):
        torch.nn.init.zeros_(classifier.weight)
    losses = method.training_step(model.train(), Batch(IMAGES, LABELS, ["a", "b"]), Step(0, 1, 0, 1))
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(6 * math.log(2), abs=1e-4)


def test_a_sub_label_is_asked_for_by_the_id_of_its_image() -> None:
    method, model, _ = built(dropout=0)
    model.sub_labels.shown = {"b": [1, 4]}
    torch.nn.init.zeros_(model.sub_classifier.weight)
    loss = method.training_step(model, Batch(IMAGES, LABELS, ["a", "b"]), Step(0, 1, 0, 1))["sub_classes"]
    loss.backward()
    grad = model.sub_classifier.weight.grad
    assert grad is not None
    mean = model.backbone(IMAGES).mean((2, 3)).detach()
    expected = 5 / 12 * torch.stack([(0.5 * mean[0] + (0.5 - (k in (1, 4))) * mean[1]) for k in range(6)])
    assert torch.allclose(grad.flatten(1), expected, atol=1e-5)


def test_sub_labels_are_part_of_a_saved_model() -> None:
    one, other = SubLabels(), SubLabels()
    one.shown = {"ü": [0, 3], "b": []}
    other.load_state_dict(one.state_dict())
    assert other.shown == one.shown
    assert other(["b", "ü", "new"], 4).tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]


def test_rounds_are_as_long_as_the_authors_and_their_learning_rate_stops_on_its_way() -> None:
    method = SCCAM(SCCAMParams())
    phases = method.phases(built()[1])
    assert [phase.epochs for phase in phases] == [31, 41, 51]
    assert [group["lr"] for group in phases[0].groups] == pytest.approx([0.01, 0.1])
    assert phases[0].schedule(0) == 1
    assert [phase.schedule(1) for phase in phases] == pytest.approx([(1 - n / 61) ** 0.9 for n in (31, 41, 51)])
    assert phases[0].augment is not None
    assert phases[0].augment.range == pytest.approx((256, 512))
    assert phases[0].groups[0] is not phases[1].groups[0]  # an optimiser keeps its own learning rate in it


def test_a_round_clusters_with_the_model_before_and_starts_anew(two_kinds: TrainingData) -> None:
    method, model, cam = built()
    begin = {name: value.clone() for name, value in model.start.items()}
    assert torch.equal(model.backbone.net.conv1[0].weight, cam.backbone.net.conv1[0].weight)
    for phase in range(2):
        method.start_phase(model, two_kinds, phase)
        shown = [model.sub_labels.shown[str(number)] for number in range(8)]
        assert {tuple(positions) for positions in shown} == {(2,), (3,)}  # of the second class
        assert shown == [shown[0], shown[1]] * 4
        state = model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in begin.items() if "extra" not in name)
        with torch.no_grad():
            model.classifier.weight.add_(1)


def test_the_background_is_the_authors_on_a_cnn_alone() -> None:
    assert [SCCAM(SCCAMParams()).background_rule(family) for family in ("cnn", "vit")] == ["fixed:0.15", ""]
