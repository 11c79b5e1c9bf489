"""MiT-B1 behind the door of backbones: its shapes, its size, its attention, and its weights by file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from wsss_methods.afa import AFA, AFAParams

from harness.backbones import Weights, build_backbone, count_with_head, resolve_weights
from harness.errors import MissingWeightsError, UserError
from harness.features import Backbone
from harness.registry import Registry
from harness.timm_models import family, hub_file, timm_id


@pytest.fixture(scope="module")
def mit() -> Backbone:
    pytest.importorskip("mmseg")
    torch.manual_seed(0)
    return build_backbone("mit_b1", Weights("random")).eval()


def test_it_has_a_name_and_is_a_transformer_whose_weights_are_a_file() -> None:
    assert timm_id("mit_b1", Registry()) == "mit_b1"
    assert family("mit_b1") == "vit"
    assert hub_file("mit_b1").endswith("--weights mit_b1=FILE")
    with pytest.raises(MissingWeightsError, match="mit_b1 starts from a file: mit_b1_20220624-02e5a6a1.pth"):
        resolve_weights("hub", "mit_b1")


def test_it_is_as_large_as_segformers(mit: Backbone) -> None:
    assert sum(parameter.numel() for parameter in mit.parameters()) == pytest.approx(13.151e6, rel=1e-4)
    assert count_with_head("mit_b1") == pytest.approx(13.151e6 + 513_000, rel=1e-4)
    norms = [module.eps for module in mit.modules() if isinstance(module, nn.LayerNorm)]
    assert (norms.count(1e-5), norms.count(1e-6)) == (4 + 6, 2 * 8 + 4)  # of patches and reductions; blocks and stages


@pytest.mark.parametrize("size", [(64, 96), (100, 70)])
def test_stages_3_and_4_share_a_stride(mit: Backbone, size: tuple[int, int]) -> None:
    with torch.no_grad():
        features = mit.features(torch.rand(1, 3, *size), levels=(0, 1, 2, -1))
    grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (4, 8, 16, 16)]
    assert [tuple(level.shape[1:]) for level in features.levels] == [
        (width, *grid) for width, grid in zip((64, 128, 320, 512), grids, strict=True)
    ]
    assert torch.equal(features.dense, features.levels[-1])


def test_attention_is_what_the_blocks_themselves_compute(mit: Backbone) -> None:
    theirs = []

    def keep(_: nn.Module, __: object, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        theirs.append(output[1])  # the mean over heads

    hooks = [block.attn.attn.register_forward_hook(keep) for block in mit.net.layers[-1][1]]
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        shown = mit.features(images, attention=(-2, -1)).attention
        raw = mit.features(images, attention=(-1,), logits=True).attention[0]
    for hook in hooks:
        hook.remove()
    assert [tuple(one.shape) for one in shown] == [(2, 8, 12, 12)] * 2
    for own, other in zip(shown, theirs, strict=False):
        assert torch.allclose(own.mean(1), other, atol=1e-6)
    assert torch.allclose(raw.softmax(-1), shown[1], atol=1e-6)


def test_what_it_lacks_is_said(mit: Backbone) -> None:
    with pytest.raises(UserError, match="last 2 blocks"):
        mit.features(torch.rand(1, 3, 64, 64), attention=(5,))
    with pytest.raises(UserError, match="no class token"):
        _ = mit.class_token


def test_its_later_stages_are_parameters_of_their_own(mit: Backbone) -> None:
    last = {id(parameter) for parameter in mit.parameters_from(3)}
    assert last == {id(parameter) for parameter in mit.net.layers[3].parameters()}


def test_every_key_of_a_weights_file_is_taken(mit: Backbone, tmp_path: Path) -> None:
    state = {name: torch.full_like(value, 0.5) for name, value in mit.net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "mit.pth")
    loaded = build_backbone("mit_b1", Weights("file", "", tmp_path / "mit.pth")).net.state_dict()
    assert all((value == 0.5).all() for value in loaded.values())
    torch.save({name: state[name] for name in list(state)[1:]}, tmp_path / "mit.pth")
    with pytest.raises(UserError, match=r"mit.pth does not fit mit_b1: it lacks layers\.0\.0\.projection\.weight"):
        build_backbone("mit_b1", Weights("file", "", tmp_path / "mit.pth"))


def test_afa_reads_its_last_two_blocks(mit: Backbone) -> None:
    model = AFA(AFAParams()).build(mit, 21)
    found = model(torch.rand(1, 3, 64, 64), affinity=True)
    assert found["affinity"].shape == (1, 16, 16)
    assert model.pairs.in_channels == 16
    head = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("backbone."))
    assert (head + 13.151e6) / 1e6 == pytest.approx(13.69, abs=0.01)
