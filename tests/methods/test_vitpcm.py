"""ViT-PCM against arithmetic written out here, not against itself."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from wsss_methods.vitpcm import VitPCM, VitPCMParams, losses, views
from wsss_methods.vitpcm.model import HVBiLSTM, PCMNet

from tests.operations import operations

FLIPS = torch.tensor([0.5, 0.5, 0.5])


class Patches(nn.Module):
    """A stand-in for a backbone: the mean colour of each 16x16 patch."""

    dim, stride, family = 3, 16, "cnn"

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 16)


def coordinates(side: int, batch: int = 1) -> Tensor:
    """An image that holds its own row and column."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, columns]).double().repeat(batch, 1, 1, 1)


def view(lr: bool = False, ud: bool = False, transpose: bool = False, offset=(0, 0), extent=4, out=4) -> views.View:  # type: ignore[no-untyped-def]
    flips = torch.tensor([[lr], [ud], [transpose]])
    return views.View(flips, torch.tensor([offset]), torch.tensor([extent]), out)


@pytest.mark.parametrize("lr", [False, True])
@pytest.mark.parametrize("ud", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_turns_by_index_there_and_back(lr: bool, ud: bool, transpose: bool) -> None:
    image = coordinates(4)
    turned = view(lr, ud, transpose).turn(image)
    for row in range(4):
        for column in range(4):
            source = (column, row) if transpose else (row, column)
            source = (3 - source[0] if ud else source[0], 3 - source[1] if lr else source[1])
            assert turned[0, :, row, column].tolist() == list(source)
    assert torch.equal(view(lr, ud, transpose).unturn(turned), image)


def test_a_crop_maps_corners_onto_corners() -> None:
    shown = view(offset=(1, 2), extent=2, out=3).show(coordinates(64), patch=16)
    assert shown.shape == (1, 2, 48, 48)
    assert shown[0, :, 0, 0].tolist() == pytest.approx([16, 32])
    assert shown[0, :, -1, -1].tolist() == pytest.approx([16 + 31, 32 + 31])
    assert shown[0, 0, 1, 0].item() == pytest.approx(16 + 31 / 47)


def test_a_patch_map_follows_its_image() -> None:
    """A patch of the shown map stands for the pixels of the shown image, up to half a patch."""
    torch.manual_seed(0)
    image = coordinates(384, 8)
    small = views.draw_small(8, 24, 8, 12, 0.5, FLIPS)
    pixels = nn.functional.avg_pool2d(small.show(image, 16), 16)
    patches = small.show(nn.functional.avg_pool2d(image, 16))
    assert (pixels - patches).abs().max() <= 8.5


def test_whole_images_at_their_size_stay_as_they_are() -> None:
    image = coordinates(64)
    torch.testing.assert_close(view().show(image, patch=16), image, rtol=0, atol=1e-5)


def test_offsets_are_whole_patches_and_the_last_one_is_over_represented() -> None:
    torch.manual_seed(0)
    small = views.draw_small(20000, 24, 8, 12, 1.0, FLIPS)
    counts = torch.bincount(small.offset[:, 0], minlength=17) / 20000
    assert len(counts) == 17
    assert counts[:16].tolist() == pytest.approx([1 / 25] * 16, abs=0.006)
    assert counts[16].item() == pytest.approx(9 / 25, abs=0.015)
    assert set(small.extent.tolist()) == {8}
    whole = views.draw_small(1000, 24, 8, 12, 0.0, FLIPS)
    assert set(whole.extent.tolist()) == {24}
    assert whole.offset.abs().max() == 0


def test_merge_tiles_row_by_row_and_split_undoes_it() -> None:
    tiles = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 3, 3).contiguous()
    merged = views.merge(tiles)
    assert merged.shape == (2, 2, 6, 6)
    assert merged[0, 0, ::3, ::3].tolist() == [[0, 1], [2, 3]]
    assert merged[1, 0, ::3, ::3].tolist() == [[4, 5], [6, 7]]
    assert torch.equal(views.split(merged), tiles)


def test_jitter_keeps_hue_circle_and_grey() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    back = views._to_rgb(*views._to_hsv(images))
    assert torch.allclose(back, images, atol=1e-5)
    many = views.jitter(torch.rand(1, 3, 4, 4).expand(3000, -1, -1, -1))
    grey = ((many[:, 0] - many[:, 1]).abs().amax((1, 2)) < 1e-6) & ((many[:, 1] - many[:, 2]).abs().amax((1, 2)) < 1e-6)
    assert grey.double().mean().item() == pytest.approx(0.1, abs=0.03)


def test_mce_is_clipped_binary_cross_entropy_by_hand() -> None:
    pooled = torch.tensor([[0.9, 0.2, 1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    e = 1e-7
    expected = [-math.log(0.9 + e), -math.log(0.8 + e), -math.log(e + e), -math.log(e + e)]
    assert losses.mce(pooled, labels).item() == pytest.approx(sum(expected) / 4, rel=1e-6)


def test_the_gradient_of_mce_is_equation_7_over_the_number_of_classes() -> None:
    torch.manual_seed(0)
    batch, patches, width, classes = 3, 7, 5, 4
    features = 0.4 * torch.randn(batch, patches, width, dtype=torch.float64)
    weights = torch.randn(width, classes, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    z = (features @ weights).softmax(-1)
    losses.mce(losses.pool(z.transpose(1, 2).unsqueeze(-1)), labels).backward()
    expected = torch.zeros_like(weights)
    for b in range(batch):
        where = z[b].argmax(0)
        y = z[b].amax(0)
        for h in range(classes):
            for k in range(classes):
                f = features[b, where[k]]
                if k == h:
                    expected[:, h] += -f * (labels[b, h] - y[h])
                else:
                    expected[:, h] += f * z[b, where[k], h] * (labels[b, k] - y[k]) / (1 - y[k])
    assert weights.grad is not None
    assert torch.allclose(weights.grad, (expected / (classes * batch)).detach(), rtol=1e-5, atol=1e-9)


def test_ties_share_the_gradient_of_the_maximum() -> None:
    maps = torch.tensor([[[[0.5, 0.2], [0.5, 0.1]]]], requires_grad=True)
    losses.pool(maps).sum().backward()
    assert maps.grad is not None
    assert maps.grad.tolist() == [[[[0.5, 0.0], [0.5, 0.0]]]]


def test_sharpening_zeroes_absent_classes_and_peaks_the_others() -> None:
    maps = torch.tensor([[[[0.2, 0.4]], [[0.5, 0.5]], [[0.3, 0.1]]]])
    sharp = losses.sharpen(maps, torch.tensor([[1.0, 0.0, 1.0]]))
    assert sharp[0, :, 0, 0].tolist() == pytest.approx([0.5 / 1.5, 0, 1 / 1.5])
    assert sharp[0, :, 0, 1].tolist() == pytest.approx([1 / (1 + 1 / 3), 0, (1 / 3) / (1 + 1 / 3)])


def test_equivariance_is_the_mean_cross_entropy() -> None:
    student = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert losses.equivariance(student, target).item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)


def test_hv_bilstm_is_four_plain_lstms_step_by_step() -> None:
    torch.manual_seed(0)
    model = HVBiLSTM(3, 2, dropout=0.5).eval()
    features = torch.randn(1, 3, 4, 5)
    found = model(features)

    def run(lstm: nn.LSTM, steps: list[Tensor]) -> list[Tensor]:
        h, c, outputs = torch.zeros(2), torch.zeros(2), []
        for x in steps:
            gates = lstm.weight_ih_l0[:, :3] @ x + lstm.weight_ih_l0[:, 3] + lstm.weight_hh_l0 @ h
            i, f, g, o = gates.chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return outputs

    def both(lstms: nn.ModuleList, steps: list[Tensor]) -> list[Tensor]:
        ahead = run(lstms[0], steps)  # type: ignore[arg-type]
        back = run(lstms[1], steps[::-1])[::-1]  # type: ignore[arg-type]
        return [torch.cat(pair) for pair in zip(ahead, back, strict=True)]

    for row in range(4):
        for column, output in enumerate(both(model.rows, list(features[0, :, row].T))):
            assert torch.allclose(found[0, :4, row, column], output, atol=1e-6)
    for column in range(5):
        for row, output in enumerate(both(model.columns, list(features[0, :, :, column].T))):
            assert torch.allclose(found[0, 4:, row, column], output, atol=1e-6)


def test_lstms_start_as_in_keras() -> None:
    torch.manual_seed(0)
    lstm = HVBiLSTM(10, 6, 0.2).rows[0]
    assert isinstance(lstm, nn.LSTM)
    bias = lstm.weight_ih_l0[:, 10]
    assert bias.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
    bound = math.sqrt(6 / (10 + 24))
    assert 0.9 * bound < lstm.weight_ih_l0[:, :10].abs().max().item() <= bound
    recurrent = lstm.weight_hh_l0
    assert torch.allclose(recurrent.T @ recurrent, torch.eye(6), atol=1e-5)


def test_hv_bilstm_counts_one_bias_per_gate() -> None:
    count = sum(p.numel() for p in HVBiLSTM(384, 192, 0.2).parameters())
    assert count == 4 * 4 * 192 * (384 + 192 + 1)


def test_probabilities_sum_to_one_and_presence_is_their_maximum() -> None:
    method = VitPCM(VitPCMParams(image_size=64))
    model = method.build(Patches(), 5).eval()
    maps, presence = method.score(model, torch.rand(2, 3, 64, 96), None)
    assert maps.shape == (2, 5, 4, 6)
    assert torch.allclose(maps.sum(1), torch.ones(2, 4, 6))
    assert torch.equal(presence, maps[:, 1:].amax((2, 3)))


@pytest.mark.parametrize(
    ("switches", "names"),
    [({}, {"mce", "l2", "et"}), ({"equivariance": False}, {"mce", "l2"}), ({"hv_bilstm": False}, {"mce", "l2", "et"})],
)
def test_switches_and_gradients(switches: dict[str, bool], names: set[str]) -> None:
    from harness import Batch, Step

    torch.manual_seed(0)
    method = VitPCM(VitPCMParams(image_size=96, **switches))  # type: ignore[arg-type]
    model = method.build(Patches(), 3)
    assert isinstance(model, PCMNet)
    assert isinstance(model.condition, HVBiLSTM) == switches.get("hv_bilstm", True)
    found = method.training_step(model.train(), Batch(torch.rand(4, 3, 96, 96), torch.ones(4, 3), []), Step(0, 1, 0, 1))
    assert set(found) == names
    assert model.training
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head_parameters())


def test_a_step_asks_the_device_for_nothing_and_for_more_images_does_no_more_operations() -> None:
    from harness import Batch, Step

    torch.manual_seed(0)
    method = VitPCM(VitPCMParams(image_size=96))
    model = method.build(Patches(), 3).train()

    def step(batch: Batch) -> None:
        found = method.training_step(model, batch, Step(0, 1, 0, 1))
        torch.stack(list(found.values())).sum().backward()

    batches = [Batch(torch.rand(count, 3, 96, 96), torch.ones(count, 3), []) for count in (8, 8, 16)]
    _, few, many = (operations(partial(step, batch)) for batch in batches)
    assert few.waited.total() == many.waited.total() == 0
    assert few.done.total() == many.done.total() > 300


def test_the_papers_word_is_taken_only_where_nothing_else_was_said() -> None:
    code, paper = VitPCMParams(), VitPCMParams(variant="paper")
    differs = {name: value for name, value in paper if value != getattr(code, name)}
    assert differs == {
        "variant": "paper", "warmup_epochs": 2, "unfreeze_blocks": 4, "l2": 0.1, "init_std": 1.0, "target": "merged",
        "sharpen": False,
    }  # fmt: skip
    assert VitPCMParams(variant="paper", l2=0.5).l2 == 0.5
    assert (code.warmup_epochs, code.unfreeze_blocks, code.l2, code.init_std) == (1, 5, 0.01, 0.05)
    assert code.batch_size * code.accumulate == 64


def test_the_papers_target_is_the_merged_branch_and_gets_no_gradient() -> None:
    from harness import Batch, Step

    torch.manual_seed(0)
    method = VitPCM(VitPCMParams(image_size=96, variant="paper", crop_probability=1.0))
    model = method.build(Patches(), 3).train()
    seen: list[tuple[bool, bool]] = []
    model.register_forward_hook(lambda model, _, out: seen.append((model.training, out.requires_grad)))
    found = method.training_step(model, Batch(torch.rand(4, 3, 96, 96), torch.ones(4, 3), []), Step(0, 1, 0, 1))
    assert seen == [(True, True), (False, False)]  # the plain branch is the student; the merged one is only asked
    found["et"].backward()
    assert model.classifier.weight.grad is not None


def test_a_view_is_brought_back_to_where_it_looked() -> None:
    grid, extent, out = 6, 4, 3
    crop = view(lr=True, transpose=True, offset=(1, 2), extent=extent, out=out)
    tile = crop.show(coordinates(grid))
    found, inside = crop.back(tile, grid)
    expected = torch.zeros(grid, grid, dtype=torch.bool)
    expected[1:5, 2:6] = True
    assert torch.equal(inside[0], expected)
    assert torch.allclose(found[0][:, expected], coordinates(grid)[0][:, expected])


def test_only_patches_that_both_branches_saw_count() -> None:
    student, target = torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    student[0, :, 0, 1] = torch.tensor([0.9, 0.1])
    loss = losses.equivariance(student, target, torch.tensor([[[True, False]]]))
    assert loss.item() == pytest.approx(math.log(2))


def test_l2_is_on_the_classifier_kernel_alone() -> None:
    from harness import Batch, Step

    method = VitPCM(VitPCMParams(image_size=96, equivariance=False, l2=0.5))
    model = method.build(Patches(), 3)
    found = method.training_step(model, Batch(torch.rand(4, 3, 96, 96), torch.ones(4, 3), []), Step(0, 1, 0, 1))
    assert isinstance(model, PCMNet)
    assert found["l2"].item() == pytest.approx(0.5 * model.classifier.weight.square().sum().item())


def test_phases_freeze_the_backbone_first_and_free_its_last_blocks_then() -> None:
    from harness.backbones import Weights, build_backbone

    method = VitPCM(VitPCMParams(epochs=80, unfreeze_blocks=2))
    backbone = build_backbone("test_vit", Weights("random"), method.backbone_options("vit"))
    model = method.build(backbone, 21)
    assert isinstance(model, PCMNet)
    first, second = method.phases(model)
    assert (first.epochs, second.epochs) == (1, 79)
    assert (first.groups[0]["lr"], second.groups[0]["lr"]) == (1e-3, 1e-4)
    names = {parameter: name for name, parameter in model.named_parameters()}
    warm = {names[p] for p in first.groups[0]["params"]}
    assert not any(name.startswith("backbone") for name in warm)
    free = {names[p] for p in second.groups[0]["params"]} - warm
    blocks = len(backbone.net.blocks)
    assert {name.split(".")[3] for name in free if ".blocks." in name} == {str(blocks - 2), str(blocks - 1)}
    assert {name for name in free if ".blocks." not in name} == {"backbone.net.norm.weight", "backbone.net.norm.bias"}
    dropouts = {module.p for module in backbone.modules() if isinstance(module, nn.Dropout)}
    assert 0.1 in dropouts


def test_dropout_of_an_lstm_s_inputs_is_drawn_at_each_step() -> None:
    """As Keras does it: a mask of the whole (batch, steps, features) input, not one for all steps of a sequence."""
    torch.manual_seed(0)
    layer = HVBiLSTM(32, 4, 0.5)
    seen: list[torch.Tensor] = []
    layer.rows[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        layer(torch.ones(2, 32, 3, 5))
    dropped = seen[0][..., :32] == 0
    assert 0.7 < dropped.float().mean() < 0.8  # half before, and half of the rest here
    always = dropped.all(1).float().mean()  # 0.75 ** 5 = 0.24; with one mask for a sequence 0.52
    assert 0.14 < always < 0.34
