"""ResNet-38: shapes, strides, counts, what stays as it is, and the names of the published checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.backbones import Weights, build_backbone, count_with_head
from harness.errors import UserError
from harness.features import Backbone
from harness.registry import Registry
from harness.resnet38 import FrozenNorm, Unit
from harness.spec import Grid, expand
from harness.timm_models import family, timm_id


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("resnet38d", Weights("random"), stride=8)


def test_counts_are_the_published_ones(backbone: Backbone) -> None:
    assert sum(parameter.numel() for parameter in backbone.parameters()) == pytest.approx(105.07e6, rel=1e-4)
    assert count_with_head("resnet38d") == pytest.approx(105.07e6 + 4096 * 1000, rel=1e-4)
    assert timm_id("resnet38", Registry()) == "resnet38d"
    assert family("resnet38d") == "cnn"


def test_shapes_and_strides(backbone: Backbone) -> None:
    with torch.no_grad():
        features = backbone.features(torch.rand(1, 3, 40, 48), levels=range(5))
    assert features.dense.shape == (1, 4096, 5, 6)
    assert [tuple(level.shape[1:]) for level in features.levels] == [
        (128, 20, 24), (256, 10, 12), (512, 5, 6), (1024, 5, 6), (4096, 5, 6),
    ]  # fmt: skip
    assert backbone.strides == (2, 4, 8, 8, 8)


def test_the_beginning_and_the_norms_are_reached_by_no_gradient(backbone: Backbone) -> None:
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]  # type: ignore[union-attr]
    backbone.train()(torch.rand(1, 3, 16, 16)).sum().backward()
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if parameter.grad is None)
    assert frozen == pytest.approx(0.868e6, rel=1e-3)  # SEAM trains 104.49 of 105.36 million
    assert all(torch.equal(old, norm.running_mean) for old, norm in zip(before, norms, strict=True))  # type: ignore[arg-type]
    backbone.zero_grad(set_to_none=True)


def test_every_key_of_the_published_layout_is_taken(tmp_path: Path) -> None:
    suffixes = ("", "_1", "_2", "_3", "_4", "_5")
    counts = {2: 3, 3: 3, 4: 6, 5: 3}
    units = [f"b{stage}{suffix}" for stage, count in counts.items() for suffix in suffixes[:count]]
    norms = [f"{unit}.bn_branch{part}" for unit in units for part in ("2a", "2b1")] + ["bn7"]
    norms += [f"b{stage}.bn_branch{part}" for stage in (6, 7) for part in ("2a", "2b1", "2b2")]
    convolutions = [f"{unit}.conv_branch{part}" for unit in units for part in ("2a", "2b1")] + ["conv1a"]
    convolutions += [f"b{stage}.conv_branch{part}" for stage in (6, 7) for part in ("2a", "2b1", "2b2")]
    convolutions += [f"b{stage}.conv_branch1" for stage in (2, 3, 4, 5, 6, 7)]
    expected = {f"{name}.weight" for name in convolutions} | {
        f"{name}.{part}" for name in norms for part in ("weight", "bias", "running_mean", "running_var")
    }
    own = build_backbone("resnet38d", Weights("random"), stride=8).net.state_dict()
    assert {key for key in own if not key.endswith("num_batches_tracked")} == expected
    path = tmp_path / "res38.safetensors"
    save_file({key: own[key] + 1 for key in expected} | {"fc8.weight": torch.zeros(20, 4096, 1, 1)}, path)
    loaded = build_backbone("resnet38d", Weights("file", "", path), stride=8).net.state_dict()
    assert all(torch.equal(loaded[key], own[key] + 1) for key in expected)


def test_another_stride_is_refused_before_anything_runs_with_the_setting_to_give() -> None:
    with pytest.raises(UserError, match="has no output_stride 16"):
        build_backbone("resnet38d", Weights("random"))
    grid = {"methods": "cam", "backbones": "resnet38", "weights": "random"}
    (cell,) = expand([Grid(**grid)], Registry())  # type: ignore[arg-type]
    assert cell.skip == "resnet38 has a stride of 8: --set '*.stride=8'"
    (cell,) = expand([Grid(**grid, set={"*.stride": 8})], Registry())  # type: ignore[arg-type]
    assert not cell.skip


def test_a_unit_by_hand() -> None:
    """Zeros through the branches leave the shortcut: the input itself, or its ReLU where the shape changes."""
    same, wider = Unit(2, 2, 2), Unit(2, 2, 3, 2)
    for unit in (same, wider):
        unit.conv_branch2b1.weight.data.zero_()
    features = torch.tensor([[[[1.0, -1]], [[-2, 2]]]])
    assert torch.equal(same(features), features)
    assert wider.conv_branch1 is not None
    wider.conv_branch1.weight.data.fill_(1)
    assert torch.allclose(wider(features), torch.ones(1, 3, 1, 1), atol=1e-4)
    norm = FrozenNorm(1)
    norm.running_mean.fill_(3)  # type: ignore[union-attr]
    assert float(norm.train()(torch.full((1, 1, 1, 1), 5.0))) == pytest.approx(2, abs=1e-4)
