"""Golden values of SC-CAM, and of K-means."""

from __future__ import annotations

import math

import pytest
import torch
from wsss_methods.cam import CAM, CAMParams
from wsss_methods.kmeans import kmeans
from wsss_methods.sccam import SCCAM, SCCAMNet, SCCAMParams, sub_labels

from harness import Batch, Step
from harness.backbones import Weights, build_backbone


def built() -> tuple[SCCAM, SCCAMNet]:
    torch.manual_seed(0)
    method = SCCAM(SCCAMParams(image_size=64, clusters=2))
    parent = CAM(CAMParams()).build(build_backbone("test_resnet", Weights("random")), 4)
    net = method.build_from(parent, build_backbone("test_resnet", Weights("random")), 4)
    assert isinstance(net, SCCAMNet)
    return method, net


def test_points_are_clustered_and_again_the_same() -> None:
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    clusters, centres = kmeans(points, 2)
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]
    assert sorted(centres.flatten().tolist()) == pytest.approx([0.05, 5.05])
    assert torch.equal(clusters, kmeans(points, 2)[0])


def test_there_are_no_more_clusters_than_points_and_equal_points_are_no_trouble() -> None:
    assert len(kmeans(torch.tensor([[1.0], [2.0]]), 5)[1]) == 2
    clusters, centres = kmeans(torch.ones(4, 3), 2)
    assert clusters.tolist() == [0] * 4
    assert torch.isfinite(centres).all()


def test_an_image_has_a_cluster_of_each_of_its_classes() -> None:
    features = torch.tensor([[0.0], [5.0], [5.1], [0.1]])
    present = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 0]])
    found = sub_labels(features, present, 2).view(4, 2, 2)
    assert found.sum(2).tolist() == present.tolist()
    assert found[0, 0].argmax() != found[1, 0].argmax()


def test_zero_logits_cost_six_times_ln_2() -> None:
    method, net = built()
    for head in net.heads:
        head.weight.data.zero_()  # type: ignore[union-attr, operator]
    net.remember(["a", "b"], torch.zeros(2, 6))
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]]), ["a", "b"])
    losses = method.training_step(net, batch, Step(0, 1, 0, 1))
    assert (losses["cls"] + losses["sub"]).item() == pytest.approx(6 * math.log(2), abs=1e-4)


def test_labels_of_images_survive_a_checkpoint() -> None:
    _, net = built()
    net.remember(["x", "y", "z"], torch.eye(6)[:3])
    _, again = built()
    again.load_state_dict(net.state_dict())
    assert again.recalled(["z", "x"]).tolist() == torch.eye(6)[[2, 0]].tolist()


def test_a_round_starts_from_the_first_weights() -> None:
    _, net = built()
    first = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.data.add_(1)
    net.reset()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, first[name]) == (not name.startswith("before")), name
