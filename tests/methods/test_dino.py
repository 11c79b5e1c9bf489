from __future__ import annotations

import pytest
import torch
from wsss_methods.dino import DINO, DINOParams, mass_below

from harness.backbones import Weights, build_backbone
from harness.errors import UserError


@torch.no_grad()
def test_maps_are_the_attention_of_the_last_layer_written_out() -> None:
    backbone = build_backbone("test_vit", Weights("random")).eval()
    images = torch.rand(2, 3, 64, 96)
    net = backbone.net
    tokens = net._pos_embed(net.patch_embed((images - backbone.mean) / backbone.std))
    for block in net.blocks[:-1]:
        tokens = block(tokens)
    layer = net.blocks[-1].attn
    projected = layer.qkv(net.blocks[-1].norm1(tokens))
    width = projected.shape[-1] // 3
    head = width // layer.num_heads
    for number in range(layer.num_heads):
        query = projected[:, 0, number * head : (number + 1) * head]
        key = projected[:, :, width + number * head : width + (number + 1) * head]
        weights = torch.softmax((key @ query[:, :, None])[..., 0] / head**0.5, 1)[:, net.num_prefix_tokens :]
        method = DINO(DINOParams(heads=number))
        found = method.score(method.build(backbone, 2), images, None)
        torch.testing.assert_close(found[:, 0], mass_below(weights.view(2, 4, 6)))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit2"])
def test_a_network_without_a_class_token_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no class token"):
        DINO(DINOParams()).build(build_backbone(name, Weights("random")), 2)


def test_a_background_keeps_the_strongest_patches_that_hold_the_rest_of_the_mass() -> None:
    attention = torch.tensor([[[0.1, 0.5], [0.05, 0.35]]])
    below = mass_below(attention)
    torch.testing.assert_close(below[0], torch.tensor([[0.15, 1.0], [0.05, 0.5]]))
    assert (below > 0.4).tolist() == [[[False, True], [False, True]]]  # 85 % of the mass: fewer hold no 60 %


def test_every_class_gets_the_same_map() -> None:
    method = DINO(DINOParams(heads=0))
    model = method.build(build_backbone("test_vit", Weights("random")), 4)
    maps = method.score(model.eval(), torch.rand(1, 3, 64, 64), None)
    assert maps.shape == (1, 3, 4, 4)
    assert (maps == maps[:, :1]).all()
    assert maps.max().item() == pytest.approx(1.0)
