"""Golden values of W-OoD, and a cell that is given images without a class."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from wsss_methods.cam import CAMNet
from wsss_methods.wood import WOoD, WOoDNet, WOoDParams, distance_loss, far, step_along

from harness import Batch, Folder, Step, TrainingData
from harness.backbones import Weights, build_backbone
from tests.conftest import TINY, Run


def test_the_loss_on_distances() -> None:
    own, other = torch.tensor([[5.0, 0.0]]), torch.tensor([[1.0, 2, 3, 4, 5]])
    assert float(distance_loss(own, torch.tensor([[1.0, 0.0]]), other, 0.2)) == pytest.approx(0.8)


def test_a_fifth_of_all_pairs_is_pushed() -> None:
    other = torch.rand(16, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distance_loss(torch.zeros(16, 20), torch.zeros(16, 20), other, 0.2).backward()
    assert other.grad is not None
    assert int((other.grad < 0).sum()) == 160


def test_a_distance_pulls_with_length_1_and_not_at_all_at_its_centre() -> None:
    points = torch.zeros(2, 2, requires_grad=True)
    found = far(points, torch.tensor([[3.0, 4.0]]))
    assert found.detach().flatten().tolist() == [5, 5]
    found.sum().backward()
    assert points.grad is not None
    assert points.grad.tolist() == [pytest.approx([-0.6, -0.8])] * 2
    still = torch.zeros(1, 2, requires_grad=True)
    far(still, torch.zeros(1, 2)).sum().backward()
    assert still.grad is not None
    assert still.grad.tolist() == [[0, 0]]


def test_an_attack_stays_in_the_range_of_the_images() -> None:
    moved = step_along(torch.tensor([-1.0, 0, 2]), torch.tensor([1.0, -0.5, 2]), 0.07)
    assert moved.tolist() == pytest.approx([-0.965, -0.0175, 2])


@pytest.fixture
def ood(tmp_path: Path) -> Path:
    folder = tmp_path / "ood"
    folder.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (70, 90, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def built(ood: Path, **params: object) -> tuple[WOoD, WOoDNet]:
    torch.manual_seed(0)
    settings = {"image_size": 64, "batch_size": 4, "clusters": 3, "ood": str(ood)} | params
    method = WOoD(WOoDParams.model_validate(settings))
    parent, backbone = (build_backbone("test_resnet", Weights("random")) for _ in range(2))
    cam = CAMNet(parent, 3)
    model = method.build_from(cam, backbone, 4)
    assert isinstance(model, WOoDNet)
    assert torch.equal(model.classifier.weight, cam.classifier.weight)
    return method, model


def test_zero_logits_cost_ln_2_and_a_quarter_of_it(ood: Path) -> None:
    method, model = built(ood, distance=0.0)
    model.classifier.weight.data.zero_()
    batch = Batch(torch.rand(4, 3, 64, 64), torch.tensor([[1.0, 1, 0, 1]]).repeat(4, 1), list("abcd"))
    losses = method.training_step(model, batch, Step(0, 1, 0, 1))
    assert float(losses["bce"].detach()) == pytest.approx(math.log(2))
    assert float(losses["negative"].detach()) == pytest.approx(math.log(2) / 4)
    method, model = built(ood, distance=0.0, exempt=(0,))
    model.classifier.weight.data.zero_()  # of equal logits the first is the largest
    assert float(method.training_step(model, batch, Step(0, 1, 0, 1))["negative"].detach()) == 0


def test_centres_are_means_of_features_and_clusters_start_at_the_first_images(ood: Path) -> None:
    method, model = built(ood, clusters=6)
    files = Folder.parse(str(ood)).files()
    labels = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]] * 2)
    data = TrainingData([*files], labels, [*files.values()])
    method.start_phase(model, data, 0)
    with torch.no_grad():
        features = torch.cat([model.pooled(batch.images) for batch in data.in_order(64, 4)])
    assert torch.allclose(model.centres[0], features[labels[:, 1] == 1].mean(0), atol=1e-5)
    assert model.centres[2].abs().sum() == 0  # of a class that no image shows
    assert torch.allclose(model.clusters, features, atol=1e-4)  # as many clusters as images


def test_every_epoch_draws_others_by_its_own_seed(ood: Path) -> None:
    method, model = built(ood)
    batch = Batch(torch.rand(4, 3, 64, 64), torch.ones(4, 4), list("abcd"))

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([method._next_others(model, batch) for _ in range(2)])

    first, second = drawn(1), drawn(2)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(1))
    assert not torch.equal(first[0], first[1])


def test_a_run_without_them_is_skipped_and_one_with_them_says_so(here: Run, ood: Path, tmp_path: Path) -> None:
    run = (
        "run", "--methods", "wood", *TINY, "--set", "*.batch_size=4", "--set", "wood.clusters=3", "--set",
        "protocol.eval_splits=val", "--results", "results",
    )  # fmt: skip
    bare = here(*run, "--dry-run")
    assert "needs images without any class of the dataset: --input ood=FOLDER" in bare.stdout + bare.stderr
    done = here(*run, "--input", "ood=ood")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    (record,) = [record for record in records if record["status"] == "done"]
    assert record["supervision"] == ["image_labels", "images_without_classes"]
    assert record["spec"]["params"]["ood"]["folder"] == "ood"
    assert str(tmp_path) not in json.dumps(record)
