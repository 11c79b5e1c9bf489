from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from wsss_methods.cam import CAM, CAMNet, CAMParams
from wsss_methods.sanity import LabelPrior, Oracle, OracleParams, Random, RandomParams

from harness.backbones import Weights, build_backbone
from tests.methods.test_vitpcm import Patches


def test_maps_are_the_class_weights_at_every_position() -> None:
    method = CAM(CAMParams())
    model = method.build(Patches(), 4).eval()
    assert isinstance(model, CAMNet)
    image = torch.rand(2, 3, 64, 64)
    maps, presence = method.score(model, image, None)
    features = functional.avg_pool2d(image, 16)
    plain = torch.einsum("kd,bdhw->bkhw", model.classifier.weight[:, :, 0, 0], features)
    assert torch.allclose(maps, plain.clamp(min=0), atol=1e-6)
    assert torch.allclose(presence, plain.mean((2, 3)).sigmoid(), atol=1e-6)
    assert maps.shape == (2, 3, 4, 4)


def test_the_loss_leaves_the_background_label_out() -> None:
    from harness import Batch, Step

    method = CAM(CAMParams())
    model = method.build(Patches(), 3)
    nn.init.zeros_(model.classifier.weight)  # type: ignore[arg-type, union-attr]
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    loss = method.training_step(model, Batch(torch.rand(1, 3, 32, 32), labels, []), Step(0, 1, 0, 1))["bce"]
    assert torch.allclose(loss, torch.tensor(2.0).log())


def test_the_oracle_returns_the_truth_at_its_grid() -> None:
    truth = torch.zeros(1, 2, 4, 4)
    truth[0, 0, :, :2] = 1
    truth[0, 1, :, 2:] = 1
    oracle = Oracle(OracleParams(stride=2))
    assert oracle.score(oracle.build(None, 2), torch.zeros(1, 3, 4, 4), truth).tolist() == [
        [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]
    ]


def test_the_label_prior_ranks_by_training_frequency_and_never_says_background() -> None:
    from harness import TrainingData

    method = LabelPrior(LabelPrior.Params())
    model = method.build(None, 4)
    data = TrainingData(["a", "b"], torch.tensor([[1.0, 0, 1, 1], [1, 0, 1, 0]]), [])
    method.fit(model, data, None)  # type: ignore[arg-type]
    maps = method.score(model, torch.zeros(2, 3, 8, 8), None)
    assert maps.argmax(1).flatten().tolist() == [2, 2]
    assert maps[:, 0].abs().max() == 0


def test_random_is_a_distribution_at_its_stride() -> None:
    method = Random(RandomParams(stride=8))
    maps = method.score(method.build(None, 3), torch.zeros(2, 3, 32, 16), None)
    assert maps.shape == (2, 3, 4, 2)
    assert torch.allclose(maps.sum(1), torch.ones(2, 4, 2))


def test_the_recipe_of_irn() -> None:
    method = CAM(CAMParams.model_validate({"recipe": "irn"}))
    p = method.params
    assert (p.image_size, p.shortest, p.longest, p.batch_size, p.epochs) == (512, 320, 640, 16, 5)
    model = method.build(build_backbone("test_resnet", Weights("random")), 4)
    (phase,) = method.phases(model)
    assert [group["lr"] for group in phase.groups] == [0.1, 1.0]
    assert (phase.optimizer, phase.options) == ("SGD", {"momentum": 1e-4, "weight_decay": 1e-4})
    trained = {id(parameter) for parameter in phase.groups[0]["params"]}
    stage = {name: id(parameter) in trained for name, parameter in model.backbone.net.named_parameters()}
    assert {name.partition(".")[0]: True for name, there in stage.items() if there} == {"layer3": True, "layer4": True}
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_setting_wins_over_the_recipe() -> None:
    assert CAMParams.model_validate({"recipe": "irn", "lr": 0.01}).lr == 0.01
