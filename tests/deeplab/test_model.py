from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness.deeplab.mm import MODELS
from harness.deeplab.model import build, config, logits, parameter_groups, probabilities
from harness.deeplab.recipe import Recipe, load_recipe
from harness.deeplab.segmentor import DeepLabV2, downsample, maximum
from harness.errors import UserError
from harness.registry import Registry
from tests.deeplab.test_recipe import recipe

REGISTRY = Registry()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def samples(labels: Tensor) -> list[Any]:
    """(B, H, W) labels as mmsegmentation wants them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    return [SegDataSample(gt_sem_seg=PixelData(data=own[None])) for own in labels]


def test_the_head_is_four_convolutions_summed() -> None:
    head = build(recipe(), 5).decode_head
    features = torch.randn(2, 512, 9, 11)
    weights, biases = torch.randn(4, 5, 512, 3, 3), torch.randn(4, 5)
    expected = torch.zeros(2, 5, 9, 11)
    for branch, weight, bias, dilation in zip(head.branches, weights, biases, (6, 12, 18, 24), strict=True):
        branch.weight.data, branch.bias.data = weight, bias
        expected += functional.conv2d(features, weight, bias, padding=dilation, dilation=dilation)
    torch.testing.assert_close(head((features,)), expected)
    assert sum(p.numel() for p in head.parameters()) == weights.numel() + biases.numel()


def test_the_head_starts_from_a_normal_of_one_hundredth() -> None:
    for branch in build(recipe(), 5).decode_head.branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert branch.weight.mean().item() == pytest.approx(0, abs=2e-4)
        assert not branch.bias.any()


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [("kazuto-coco", 21, 44.05), ("kazuto-coco", 81, 48.47), ("johnnylu-imagenet", 21, 44.05)],
)
def test_parameters_of_the_published_recipes(name: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        model = MODELS.build(config(load_recipe(name, REGISTRY), classes))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("backbone", "style", "trunk"),
    [
        ("resnet101", "v1c", 42_500_160 - (3 * 64 * 49 + 2 * 64) + 27 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 2 * 128),
        ("resnet50", "caffe", 23_508_032),
        ("resnet18", "torchvision", 11_176_512),
    ],
)
def test_parameters_of_other_backbones(backbone: str, style: str, trunk: int) -> None:
    with torch.device("meta"):
        model = MODELS.build(config(recipe(backbone=backbone, style=style), 21))
    assert sum(p.numel() for p in model.backbone.parameters()) == trunk


@pytest.mark.parametrize("side", [64, 65, 96])
def test_features_have_stride_eight_and_caffes_pool_rounds_up(side: int) -> None:
    stem = (side - 1) // 2 + 1
    sizes = {"torchvision": (stem - 1) // 2 + 1, "caffe": stem // 2 + 1}
    for style, pooled in sizes.items():
        network = build(recipe(backbone="resnet50", style=style), 2).eval().backbone
        with torch.no_grad():
            (features,) = network(torch.rand(1, 3, side, side))
        assert features.shape == (1, 2048, (pooled - 1) // 2 + 1, (pooled - 1) // 2 + 1)


@pytest.mark.parametrize("first_block", ["halved", "plain"])
def test_the_torchvision_style_computes_what_torchvision_does(first_block: str) -> None:
    from torchvision.models import resnet50

    theirs = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    if first_block == "plain":
        theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (1, 1)
    ours = build(recipe(backbone="resnet50", first_block=first_block), 2).eval().backbone
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.rand(1, 3, 65, 97)
    theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0].flatten(1), theirs(images))


def test_a_timm_network_computes_what_timm_does_and_is_fed_as_it_expects() -> None:
    from harness.backbones import Weights, build_backbone

    model = build(load_recipe("toy", REGISTRY), 4).eval()
    theirs = build_backbone("test_resnet", Weights("random"), stride=8).eval()
    theirs.net.load_state_dict(model.backbone.net.state_dict())
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        fed = model.data_preprocessor({"inputs": images})["inputs"]
        torch.testing.assert_close(model.backbone(fed)[0], theirs(images / 255))


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "densenet121", "vgg11"])
def test_a_timm_model_that_cannot_says_so(backbone: str) -> None:
    unlike = {"style": None, "backbone": f"timm:{backbone}"}
    with pytest.raises(UserError, match=rf"'{backbone}' (is a transformer|has no output_stride 8)"):
        build(recipe(**unlike), 3)


def test_images_are_fed_as_the_original_does_and_padded_with_the_mean() -> None:
    model = build(load_recipe("kazuto-coco", REGISTRY), 21)
    image = torch.zeros(3, 200, 321, dtype=torch.uint8)
    image[:, 0, 0] = torch.tensor([255, 10, 20])  # R, G, B
    data = {"inputs": [image], "data_samples": samples(torch.zeros(1, 200, 321, dtype=torch.uint8))}
    fed = model.data_preprocessor(data, training=True)
    assert fed["inputs"].shape == (1, 3, 321, 321)
    assert fed["inputs"][0, :, 0, 0].tolist() == pytest.approx([20 - 104.008, 10 - 116.669, 255 - 122.675], abs=1e-4)
    assert not fed["inputs"][0, :, 200:].any()
    labels = fed["data_samples"][0].gt_sem_seg.data
    assert labels.shape == (1, 321, 321)
    assert set(labels[0, 200:].flatten().tolist()) == {255}
    assert not labels[0, :200].any()


def test_the_maximum_over_scales_by_hand() -> None:
    whole = torch.tensor([[[[1.0, 9.0, 3.0, 4.0]]]])
    half = torch.tensor([[[[2.0, 6.0]]]])  # upsampled: 2, .75 * 2 + .25 * 6, .25 * 2 + .75 * 6, 6
    assert maximum([whole, half]).tolist() == [[[[2.0, 9.0, 5.0, 6.0]]]]


@pytest.mark.parametrize("crop", [64, 96, 97, 257, 321, 381])
def test_the_nearest_label_is_pils(crop: int) -> None:
    labels = torch.randint(0, 21, (crop, crop), dtype=torch.uint8)
    for height, width in zip(range(3, 60), range(60, 3, -1), strict=True):
        theirs = Image.fromarray(labels.numpy()).resize((width, height), Image.Resampling.NEAREST)
        assert (downsample(labels[None], (height, width))[0].numpy() == np.asarray(theirs)).all()


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the pixels that are not 255 of -log softmax, in plain arithmetic."""
    height, width = scores.shape[2:]
    terms = []
    for own, label in zip(scores.astype(float), labels, strict=True):
        small = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
        for row, column in np.ndindex(height, width):
            if small[row, column] != 255:
                values = own[:, row, column]
                terms.append(np.log(np.exp(values).sum()) - values[small[row, column]])
    return float(np.mean(terms))


def test_the_four_losses_by_hand() -> None:
    model = build(load_recipe("toy", REGISTRY), 4)
    images = torch.randn(2, 3, 48, 48)
    labels = torch.randint(0, 4, (2, 48, 48), dtype=torch.uint8)
    labels[:, :20, :] = 255
    model.eval()
    with torch.no_grad():
        scales = [model.decode_head(model.backbone(images))]
        for side in (36, 24):
            smaller = functional.interpolate(images, (side, side), mode="bilinear")
            scales.append(model.decode_head(model.backbone(smaller)))
        losses = model.loss(images, samples(labels))
    assert [tuple(own.shape[2:]) for own in scales] == [(6, 6), (5, 5), (3, 3)]
    raised = [functional.interpolate(own, (6, 6), mode="bilinear").numpy() for own in scales]
    scores = [*(own.numpy() for own in scales), np.maximum(np.maximum(raised[0], raised[1]), raised[2])]
    assert list(losses) == ["loss_1", "loss_0.75", "loss_0.5", "loss_max"]
    for found, own in zip(losses.values(), scores, strict=True):
        assert found.item() == pytest.approx(cross_entropy(own, labels.numpy()), rel=1e-5)


def test_a_single_loss_is_at_full_size() -> None:
    model = build(recipe(losses="single"), 3).eval()
    images, labels = torch.randn(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32), dtype=torch.uint8)
    labels[0, 4] = 255
    with torch.no_grad():
        losses = model.loss(images, samples(labels))
        whole = functional.interpolate(maximum(model.pyramid(images)), (32, 32), mode="bilinear")
    assert list(losses) == ["loss"]
    assert losses["loss"].item() == pytest.approx(cross_entropy(whole.numpy(), labels.numpy()), rel=1e-5)


def test_images_without_a_label_cost_nothing() -> None:
    model = build(load_recipe("toy", REGISTRY), 4)
    losses = model.loss(torch.randn(1, 3, 32, 32), samples(torch.full((1, 32, 32), 255, dtype=torch.uint8)))
    assert [loss.item() for loss in losses.values()] == [0, 0, 0, 0]


def names(model: DeepLabV2, of: Recipe) -> dict[str, set[str]]:
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    return {g["name"]: {called[id(parameter)] for parameter in g["params"]} for g in parameter_groups(model, of)}


@pytest.mark.parametrize(
    ("bn", "stem"), [("frozen", "trained"), ("statistics", "frozen"), ("trained", "trained"), ("trained", "frozen")]
)
def test_parameter_groups_by_name(bn: str, stem: str) -> None:
    of = recipe(bn=bn, stem=stem)
    model = build(of, 3)
    everything = {name for name, _ in model.backbone.named_parameters()}
    convolutions = {name for name in everything if "conv" in name or "downsample.0" in name}
    assert len(convolutions) == 20
    trained = everything if bn == "trained" else convolutions
    trained = {f"backbone.{name}" for name in trained if stem == "trained" or name.startswith("layer")}
    assert names(model, of) == {
        "backbone": trained,
        "head_weight": {f"decode_head.branches.{branch}.weight" for branch in range(4)},
        "head_bias": {f"decode_head.branches.{branch}.bias" for branch in range(4)},
    }


def test_parameter_groups_have_their_rates_and_decays() -> None:
    kazuto = load_recipe("kazuto-coco", REGISTRY)
    found = [(g["name"], g["lr"], g["weight_decay"]) for g in parameter_groups(build(kazuto, 21), kazuto)]
    assert found == [
        ("backbone", 2.5e-4, 5e-4), ("head_weight", pytest.approx(2.5e-3), 5e-4), ("head_bias", 5e-3, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("bn", ["frozen", "statistics", "trained"])
def test_batch_normalisation_is_treated_as_the_recipe_says(bn: str) -> None:
    of = recipe(bn=bn)
    model = build(of, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(model, of), momentum=of.momentum)
    for _ in range(2):
        model.train()
        losses = model.loss(torch.randn(2, 3, 64, 64), samples(torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8)))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    after = model.state_dict()
    kinds = {"weight": "bn1.weight", "statistics": "bn1.running_mean", "convolution": "conv1.weight"}
    moved = {
        kind: {not torch.equal(before[name], after[name]) for name in after if name.endswith(ending)}
        for kind, ending in kinds.items()
    }
    assert moved == {"weight": {bn == "trained"}, "statistics": {bn != "frozen"}, "convolution": {True}}


def test_neither_importing_nor_building_says_anything() -> None:
    code = (
        "from harness.deeplab.model import build; from harness.deeplab.recipe import load_recipe; "
        "from harness.registry import Registry; build(load_recipe('toy', Registry()), 2)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout + said.stderr == ""


def test_mmengines_runner_does_not_draw_the_weights_again() -> None:
    model = build(recipe(), 3)
    before = model.backbone.conv1.weight.clone()
    model.init_weights()
    assert torch.equal(model.backbone.conv1.weight, before)


def test_predictions_are_averaged_over_scales_and_flip() -> None:
    of = load_recipe("toy", REGISTRY).model_copy(update={"test_scales": (1.0, 1.5), "test_flip": True})
    model = build(of, 4)
    images = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    views = []
    for scaled in (images, functional.interpolate(images.float(), (60, 84), mode="bilinear")):
        for mirrored in (False, True):
            own = logits(model, scaled.flip(3) if mirrored else scaled)
            own = functional.interpolate(own, (40, 56), mode="bilinear").softmax(1)
            views.append(own.flip(3) if mirrored else own)
    found = probabilities(model, images, of)
    torch.testing.assert_close(found, sum(views[1:], views[0]) / 4)
    assert found.sum(1) == pytest.approx(np.ones((1, 40, 56)), abs=1e-5)
    assert not torch.equal(found, probabilities(model, images, load_recipe("toy", REGISTRY)))


def test_logits_are_the_maximum_over_the_scales_at_the_size_of_the_first() -> None:
    model = build(load_recipe("toy", REGISTRY), 4)
    images = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    found = logits(model, images)
    with torch.no_grad():
        fed = model.data_preprocessor({"inputs": images})["inputs"]
        parts = [model.decode_head(model.backbone(fed))]
        for size in ((30, 42), (20, 28)):
            parts.append(model.decode_head(model.backbone(functional.interpolate(fed, size, mode="bilinear"))))
    raised = [functional.interpolate(part, (5, 7), mode="bilinear") for part in parts]
    torch.testing.assert_close(found, torch.maximum(torch.maximum(raised[0], raised[1]), raised[2]))
