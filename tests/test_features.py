from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.backbones import Weights, build_backbone
from harness.errors import UserError
from harness.features import Backbone
from harness.timm_models import VIT_MODULES, import_timm

# The smallest of each kind of ViT in timm, its heads, class and register tokens, and whether one is a class token.
VITS = {
    "test_vit": (2, 1, True),
    "test_vit2": (2, 1, False),  # a register, mean pooled
    "test_vit3": (3, 1, False),  # a register, pooled by attention
    "test_vit4": (3, 1, False),
    "vit_xsmall_patch16_clip_224": (4, 1, True),  # a norm before the blocks
    "vit_small_patch14_reg4_dinov2": (6, 5, True),
    "vit_medium_patch16_gap_240": (8, 0, False),
    "vit_pwee_patch16_reg1_gap_256": (4, 1, False),  # attention beside the MLP
    "deit3_small_patch16_224": (6, 1, True),  # a class token without position
    "deit_tiny_distilled_patch16_224": (3, 2, True),
    "vit_tiny_r_s16_p8_224": (3, 1, True),  # a ResNet before the blocks
    "eva02_tiny_patch14_224": (3, 1, True),  # rotary positions
    "vit_small_patch16_rope_mixed_ape_224": (6, 1, True),
    "vit_tiny_patch16_dinov3_qkvb": (3, 5, True),
    "vit_pe_spatial_tiny_patch16_512": (3, 1, True),
}
ONE_SIZE = (
    "beit_base_patch16_224",
    "test_vit_relpos",
    "samvit_base_patch16",
    "naflexvit_base_patch16_gap",
    "gemma4_vit_167m",
    "qwen3_vit_88m",
    "deepseek_vit_412m",
)
OTHER_TRANSFORMERS = (
    *("cait_xxs24_224", "convit_tiny", "crossvit_9_240", "tnt_s_patch16_224", "xcit_nano_12_p8_224", "levit_128s"),
    *("pit_ti_224", "volo_d1_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "mvitv2_tiny"),
    *("pvt_v2_b0", "twins_svt_small", "davit_tiny", "hiera_tiny_224", "vitamin_small_224", "coat_tiny", "nest_tiny"),
    *(
        "efficientvit_b0",
        "efficientformer_l1",
        "gcvit_xxtiny",
        "visformer_tiny",
        "tiny_vit_5m_224",
        "maxvit_pico_rw_256",
    ),
)
CNNS = {
    "test_resnet": ((32, 32, 48, 192, 96), (2, 4, 8, 16, 16)),
    "test_efficientnet": ((16, 24, 32, 48, 64), (2, 4, 8, 16, 16)),
    "resnetv2_18": ((64, 64, 128, 256, 512), (2, 4, 8, 16, 16)),
    "regnetx_002": ((32, 24, 56, 152, 368), (2, 4, 8, 16, 16)),
    "legacy_xception": ((64, 128, 256, 728, 2048), (2, 4, 8, 16, 16)),
}


def built(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, Weights("random")).eval()


def written_out(backbone: Backbone, images: Tensor, block: int) -> Tensor:
    """Return attention as timm computes it when it is not fused."""
    module = backbone.net.blocks[block]
    module = getattr(module, "attn", module)
    seen = []
    module.fused_attn = False
    hook = module.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(images)
    hook.remove()
    module.fused_attn = True
    return seen[0]


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_a_vit_of_every_kind_shows_levels_tokens_and_attention(name: str) -> None:
    heads, count, has_class_token = VITS[name]
    backbone, images = built(name), torch.rand(2, 3, 50, 90)
    height, width = -(-50 // backbone.stride), -(-90 // backbone.stride)
    found = backbone.features(images, levels=(-1, 0), attention=(1, -1))
    assert torch.equal(found.dense, backbone(images))
    assert found.dense.shape == (2, backbone.dim, height, width)
    assert backbone.dims == (backbone.dim,) * len(backbone.net.blocks)
    assert backbone.strides == (backbone.stride,) * len(backbone.net.blocks)
    assert backbone.num_heads == heads

    assert found.tokens is not None
    assert found.tokens.shape == found.level_tokens[0].shape == (2, count, backbone.dim)
    last = torch.cat([found.level_tokens[0], found.levels[0].flatten(2).transpose(1, 2)], 1)
    normed = backbone.net.norm(last)
    torch.testing.assert_close(normed[:, :count], found.tokens)
    torch.testing.assert_close(normed[:, count:], found.dense.flatten(2).transpose(1, 2))
    assert not torch.equal(found.levels[0], found.levels[1])

    for block, attention in zip((1, -1), found.attention, strict=True):
        assert attention.shape == (2, heads, count + height * width, count + height * width)
        torch.testing.assert_close(attention, written_out(backbone, images, block))

    if has_class_token and count == 1:
        torch.testing.assert_close(backbone.features(images, class_tokens=backbone.class_token).dense, found.dense)
    elif has_class_token:
        assert backbone.class_token.shape == (1, 1, backbone.dim)
    else:
        with pytest.raises(UserError, match=f"{name} has no class token"):
            _ = backbone.class_token


@pytest.mark.parametrize("name", [*ONE_SIZE, *OTHER_TRANSFORMERS])
def test_other_transformers_are_refused_in_one_line(name: str) -> None:
    why = "has no dense features at any image size" if name in ONE_SIZE else "has no output_stride 16, so"
    with pytest.raises(UserError, match=f"^timm model '{name}' {why}[^\n]*$"):
        build_backbone(name, Weights("random"))


def test_every_module_of_timm_that_holds_vits_is_tried_here() -> None:
    entry = import_timm().model_entrypoint
    assert {entry(name).__module__.rpartition(".")[2] for name in (*VITS, *ONE_SIZE)} == set(VIT_MODULES)


def test_a_vit_that_cannot_show_its_attention_or_take_a_size_says_so() -> None:
    with torch.device("meta"):  # shapes alone: they are large
        differential = build_backbone("vit_dpwee_patch16_reg1_gap_256", Weights("random"))
        multiples = build_backbone("vit_base_mci_224", Weights("random"))
        images = torch.rand(1, 3, 50, 90)
        assert differential(images).shape == (1, differential.dim, 4, 6)
        with pytest.raises(UserError, match="does not call fused attention once in each block"):
            differential.features(images, attention=(-1,))
        with pytest.raises(UserError, match="takes images whose sides are multiples of 16 only"):
            multiples(images)


@pytest.mark.parametrize("name", CNNS)
@torch.no_grad()
def test_levels_of_a_cnn_are_its_stages(name: str) -> None:
    backbone, images = built(name), torch.rand(2, 3, 64, 96)
    assert (backbone.dims, backbone.strides, backbone.num_heads) == (*CNNS[name], 0)
    found = backbone.features(images, levels=(3, 0, -4, 2, -1))
    assert torch.equal(found.dense, backbone(images))
    assert (found.tokens, found.level_tokens, found.attention) == (None, (), ())
    for level, features in zip((3, 0, 1, 2, 4), found.levels, strict=True):
        channels, stride = backbone.dims[level], backbone.strides[level]
        if name != "legacy_xception":  # its convolutions have no padding: the grids are a little smaller
            assert features.shape == (2, channels, 64 // stride, 96 // stride)
            given = backbone.net.forward_intermediates((images - backbone.mean) / backbone.std, indices=[level])
            torch.testing.assert_close(features, given[1][0])
        assert features.shape[1] == channels


def test_what_a_backbone_lacks_is_refused() -> None:
    cnn, vit, rotary = built("test_resnet"), built("test_vit"), built("eva02_tiny_patch14_224")
    images = torch.rand(1, 3, 32, 32)
    for arguments in ({"attention": (-1,)}, {"class_tokens": torch.zeros(1, 1, 96)}):
        with pytest.raises(UserError, match="test_resnet is a convolutional network: it has no attention"):
            cnn.features(images, **arguments)
    with pytest.raises(UserError, match="test_resnet has no class token"):
        _ = cnn.class_token
    with pytest.raises(UserError, match=f"test_vit has {len(vit.dims)} levels: 12 is none of"):
        vit.features(images, levels=(12,))
    with pytest.raises(UserError, match="has rotary positions: it takes 1 class tokens, not 20"):
        rotary.features(images, class_tokens=torch.zeros(1, 20, rotary.dim))


@torch.no_grad()
def test_own_class_tokens_stand_where_the_vits_own_stood() -> None:
    backbone, images = built("test_vit"), torch.rand(2, 3, 64, 96)
    backbone.net.cls_token.normal_()
    plain = backbone.features(images, attention=(0,))
    alike = backbone.features(images, attention=(0, -1), class_tokens=backbone.class_token.expand(-1, 3, -1))
    assert alike.dense.shape == plain.dense.shape
    assert alike.tokens is not None
    torch.testing.assert_close(alike.tokens, alike.tokens[:, :1].expand(-1, 3, -1))  # equal at the start, equal after
    # Among three equal tokens and the patches, a patch attends to each as to the one, before all is made to sum to 1.
    one, three = plain.attention[0], alike.attention[0]
    torch.testing.assert_close(three[:, :, 3:, 3:], one[:, :, 1:, 1:] / (1 + 2 * one[:, :, 1:, :1]))
    unequal = backbone.class_token * torch.tensor([1.0, -1.0]).view(1, 2, 1)
    found = backbone.features(images, levels=(-1,), class_tokens=unequal)
    assert (found.level_tokens[0][:, 0] - found.level_tokens[0][:, 1]).abs().max() > 0.1
    assert torch.equal(backbone(images), plain.dense)  # nothing stays behind


def test_logits_are_scaled_products_and_carry_gradients() -> None:
    backbone, images = built("test_vit"), torch.rand(1, 3, 32, 48)
    (logits,) = backbone.features(images, attention=(-1,), logits=True).attention
    (attention,) = backbone.features(images, attention=(-1,)).attention
    torch.testing.assert_close(logits.softmax(-1), attention)
    inputs: list[Tensor] = []
    layer = backbone.net.blocks[-1].attn
    with layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])):
        backbone(images)
    query, key, _ = layer.qkv(inputs[0]).chunk(3, -1)
    width = backbone.dim // backbone.num_heads
    for head in range(backbone.num_heads):
        mine = slice(head * width, (head + 1) * width)
        products = layer.q_norm(query[..., mine]) @ layer.k_norm(key[..., mine]).transpose(1, 2)
        unscaled = logits[:, head] * (backbone.dim / backbone.num_heads) ** 0.5
        torch.testing.assert_close(unscaled, products)
    logits.square().sum().backward()
    assert layer.qkv.weight.grad is not None
    assert layer.qkv.weight.grad.abs().max() > 0


def test_features_after_an_error_are_as_before() -> None:
    backbone, images = built("test_vit"), torch.rand(1, 3, 32, 48)
    with pytest.raises(RuntimeError):
        backbone.features(images, levels=(0,), attention=(0,), class_tokens=torch.zeros(1, 2, 7))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    assert backbone(images).shape == (1, backbone.dim, 2, 3)


def test_frozen_norms_keep_their_statistics_and_train_their_scale() -> None:
    model, images = nn.Sequential(built("test_resnet")), 5 * torch.rand(2, 3, 64, 64)
    backbone = model[0]
    backbone.freeze_norms()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    assert model.train()[0].net.training
    backbone(images).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert backbone.net.layer1[0].bn1.weight.grad is not None
    in_training = backbone(images)
    assert torch.equal(in_training, model.eval()(images))

    thawed = built("test_resnet").train()
    thawed(images)
    assert any(not torch.equal(value, before[name]) for name, value in thawed.named_buffers())


@pytest.mark.parametrize(
    ("name", "level", "first"),
    [
        ("test_resnet", 3, "layer3"),
        ("test_resnet", -1, "layer4"),
        ("test_efficientnet", 2, "blocks.2"),
        ("resnetv2_18", 1, "stages.0"),
        ("test_vit", 2, "blocks.2"),
        ("test_vit", 0, ""),
    ],
)
def test_parameters_from_a_level_leave_out_what_comes_before(name: str, level: int, first: str) -> None:
    backbone, images = built(name), torch.rand(2, 3, 64, 64)
    dense = backbone(images)
    names = [key for key, _ in backbone.net.named_parameters()]
    start = next((index for index, key in enumerate(names) if key.startswith(first)), len(names))
    chosen = backbone.parameters_from(level)
    assert {id(parameter) for parameter in chosen} == {
        id(parameter) for key, parameter in backbone.net.named_parameters() if key in names[start:]
    }
    backbone.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    again = backbone(images)
    assert torch.equal(again, dense)
    again.square().sum().backward()
    trained = {key for key, parameter in backbone.net.named_parameters() if parameter.grad is not None}
    assert trained == set(names[start:])
