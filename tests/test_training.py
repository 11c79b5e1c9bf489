from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness import Augment, Batch, Method, Phase, Session, Step, TrainingData, TrainParams, training
from harness.errors import HarnessError
from harness.images import squash
from harness.loader import paired
from harness.seeds import derive
from harness.training import train


class Linear(Method):
    """A model of one weight vector per phase, noisy enough that any difference in randomness shows."""

    name = "linear"
    params: TrainParams

    def build(self, backbone: object, num_classes: int) -> nn.Module:
        return nn.ModuleDict({"head": nn.Linear(3, num_classes), "body": nn.Linear(3, num_classes)})

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, nn.ModuleDict)
        head, body = model["head"], model["body"]
        return [
            Phase(2, [{"params": head.parameters(), "lr": 0.1}]),
            Phase(self.params.epochs - 2, [{"params": [*head.parameters(), *body.parameters()], "lr": 0.01}], "AdamW"),
        ]

    def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert isinstance(model, nn.ModuleDict)
        mean = batch.images.mean((2, 3)) + torch.randn(len(batch.images), 3)
        return {"fit": (model["head"](mean) + model["body"](mean) - batch.labels).square().mean()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(10)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).save(path)
    return TrainingData([path.stem for path in paths], torch.eye(5).repeat(2, 1), paths)


def session(folder: Path, stop_after: int | None = None) -> Session:
    def progress(done: int, total: int, notes: dict[str, float]) -> None:
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    return Session(3, "cpu", "fp32", folder, progress)


def fitted(data: TrainingData, folder: Path, **changes: object) -> tuple[nn.Module, Session]:
    method = Linear(TrainParams(image_size=16, epochs=6, batch_size=4, **changes))  # type: ignore[arg-type]
    torch.manual_seed(derive(0, "build"))
    model = method.build(None, 5)
    run = session(folder)
    train(method, model, data, run)
    return model, run


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_weights(data: TrainingData, tmp_path: Path) -> None:
    first, run = fitted(data, tmp_path / "a")
    second, _ = fitted(data, tmp_path / "b")
    assert same(first, second)
    assert [row["epoch"] for row in run.curves] == [1, 2, 3, 4, 5, 6]
    assert run.curves[-1]["fit"] < run.curves[0]["fit"]


@pytest.mark.parametrize("epochs_done", [1, 2, 3, 5])
def test_a_training_cut_off_after_any_epoch_goes_on_to_the_same_weights(
    data: TrainingData, tmp_path: Path, epochs_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = fitted(data, tmp_path / "whole")
    from harness import training

    real = training._epoch

    def cut(method, model, optimizer, at, *rest) -> None:  # type: ignore[no-untyped-def]
        if at.start.epoch >= epochs_done:
            raise KeyboardInterrupt
        real(method, model, optimizer, at, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", cut)
        patch.setattr(training, "_MAX_CHECKPOINT_SHARE", 1e9)
        with pytest.raises(KeyboardInterrupt):
            fitted(data, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    resumed, again = fitted(data, tmp_path / "cut")
    assert same(whole, resumed)
    assert again.curves == run.curves


def test_parameters_in_no_group_do_not_move(data: TrainingData, tmp_path: Path) -> None:
    method = Linear(TrainParams(image_size=16, epochs=2, batch_size=4))
    torch.manual_seed(0)
    model = method.build(None, 5)
    assert isinstance(model, nn.ModuleDict)
    body, head = model["body"].weight.clone(), model["head"].weight.clone()
    train(method, model, data, session(tmp_path))
    assert torch.equal(model["body"].weight, body)
    assert not torch.equal(model["head"].weight, head)


def test_a_loss_that_is_not_finite_stops_with_its_name(data: TrainingData, tmp_path: Path) -> None:
    class Broken(Linear):
        name = "broken"

        def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
            loss = super().training_step(model, batch, step)["fit"]
            return {"good": loss, "bad": loss * float("nan")}

    method = Broken(TrainParams(image_size=16, epochs=3, batch_size=4))
    with pytest.raises(HarnessError, match="not finite in epoch 1: .*bad nan"):
        train(method, method.build(None, 5), data, session(tmp_path))


def test_batches_see_every_image_once_and_leave_a_smaller_one_out(data: TrainingData) -> None:
    batches = list(data.batches(16, 4, 0))
    assert [len(batch.ids) for batch in batches] == [4, 4]
    assert len({image_id for batch in batches for image_id in batch.ids}) == 8
    assert batches[0].images.shape == (4, 3, 16, 16)
    assert [len(batch.ids) for batch in data.batches(16, 99, 0)] == [10]
    order = [image_id for batch in data.batches(16, 4, 1) for image_id in batch.ids]
    assert order != [image_id for batch in batches for image_id in batch.ids]


def test_labels_follow_their_images(data: TrainingData) -> None:
    for batch in data.batches(16, 3, 5):
        assert [int(row.argmax()) for row in batch.labels] == [int(image_id) % 5 for image_id in batch.ids]


def test_squash_is_an_image_in_unit_range() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:, 0] = 255
    squashed = squash(image, (16, 16))
    assert squashed.shape == (3, 16, 16)
    assert squashed[0, :, 0].tolist() == [0.0] * 16
    assert squashed[0, :, -1].tolist() == [1.0] * 16
    assert squashed[1:].max() == 0


class Calm(Linear):
    """The same without noise, and with plain steps, so that two small batches can be worth one large."""

    name = "calm"

    def phases(self, model: nn.Module) -> list[Phase]:
        return [Phase(self.params.epochs, [{"params": model.parameters(), "lr": 0.1}], "SGD")]

    def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert isinstance(model, nn.ModuleDict)
        return {"fit": (model["head"](batch.images.mean((2, 3))) - batch.labels).square().mean()}


def test_accumulated_batches_are_worth_one_of_their_size(data: TrainingData, tmp_path: Path) -> None:
    models = []
    for number, (batch_size, accumulate) in enumerate([(8, 1), (4, 2), (2, 4)]):
        method = Calm(TrainParams(image_size=16, epochs=3, batch_size=batch_size, accumulate=accumulate))
        torch.manual_seed(0)
        models.append(method.build(None, 5))
        train(method, models[-1], data, session(tmp_path / str(number)))
    for other in models[1:]:
        for one, two in zip(models[0].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two)


def test_batches_that_fill_no_step_are_left_out(data: TrainingData, tmp_path: Path) -> None:
    method = Calm(TrainParams(image_size=16, epochs=1, batch_size=2, accumulate=3))  # 10 images: 5 batches, 1 step
    model = method.build(None, 5)
    assert isinstance(model, nn.ModuleDict)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    seen: list[object] = []
    model["head"].register_forward_hook(lambda *call: seen.append(call))
    train(method, model, data, session(tmp_path))
    assert len(seen) == 3
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Mean(Linear):
    """Without randomness, so that its loss is a mean over images and nothing else."""

    name = "mean"

    def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        assert isinstance(model, nn.ModuleDict)
        return {"fit": (model["head"](batch.images.mean((2, 3))) - batch.labels).square().mean()}


def test_one_large_step_is_the_sum_of_its_parts(data: TrainingData, tmp_path: Path) -> None:
    """The same gradients, losses and learning rate."""
    method = Mean(TrainParams(image_size=16, batch_size=2))
    model = method.build(None, 5)
    phase = Phase(1, [{"params": list(model.parameters()), "lr": 0.1}], "SGD", schedule=lambda done: 1 - done)
    optimizer = training._start(phase, model, "cpu")
    (batch,) = itertools.islice(data.batches(16, 8, 0), 1)
    place = training._Place(phase, 0, 0, Step(0, 1, 0, 4), 4)
    found = []
    for split in (True, False):
        run = session(tmp_path)
        run.split = split
        optimizer.zero_grad()
        losses = training._Advance(method, model, optimizer, place, 4, run)(batch, 0)
        found.append((
            torch.stack([loss["fit"] for loss in losses]).mean(), *(p.grad for p in model["head"].parameters()),
            torch.tensor(optimizer.param_groups[0]["lr"]),
        ))  # fmt: skip
        assert len(losses) == (4 if split else 1)
    for by_parts, at_once in zip(*found, strict=True):
        torch.testing.assert_close(by_parts, at_once)


@pytest.mark.parametrize("augment", [Augment(16), Augment(8, "scale", (0.5, 1.5), flip=0.5)])
@pytest.mark.parametrize("room", [0, 1500, 1 << 20])
def test_what_is_kept_changes_no_batch(data: TrainingData, augment: Augment, room: int) -> None:
    kept = TrainingData(data.ids, data.labels, data._paths, workers=2, room=room)
    for epoch in range(3):
        for ours, theirs in zip(kept.batches(augment, 4, epoch), data.batches(augment, 4, epoch), strict=True):
            assert ours.ids == theirs.ids
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.valid, theirs.valid)
    assert 0 <= kept._kept.room <= room
    assert (kept._kept.room < room) == (room > 0)


def test_phases_that_share_their_groups_do_not_hand_on_a_learning_rate(data: TrainingData, tmp_path: Path) -> None:
    class Shared(Linear):
        name = "shared"

        def phases(self, model: nn.Module) -> list[Phase]:
            groups = [{"params": list(model.parameters()), "lr": 0.1}]
            return [Phase(1, groups, schedule=lambda done: 0.01), Phase(1, groups)]

    method = Shared(TrainParams(image_size=16, batch_size=4))
    run = session(tmp_path)
    train(method, method.build(None, 5), data, run)
    assert [epoch["lr"] for epoch in run.curves] == pytest.approx([0.001, 0.1])


def test_a_loss_that_begins_later_is_averaged_over_its_own_steps(data: TrainingData, tmp_path: Path) -> None:
    class Later(Mean):
        name = "later"

        def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
            losses = super().training_step(model, batch, step)
            return losses | ({"late": losses["fit"] * 0 + 3.0} if step.iteration % 2 else {})

    method = Later(TrainParams(image_size=16, epochs=3, batch_size=4))
    run = session(tmp_path)
    train(method, method.build(None, 5), data, run)
    assert [epoch["late"] for epoch in run.curves] == [3.0, 3.0, 3.0]


def test_a_phase_clips_the_norm_of_all_its_gradients(data: TrainingData, tmp_path: Path) -> None:
    class Clipped(Mean):
        name = "clipped"

        def phases(self, model: nn.Module) -> list[Phase]:
            return [Phase(1, [{"params": list(model.parameters()), "lr": 1.0}], "SGD", clip_norm=1e-3)]

    method = Clipped(TrainParams(image_size=16, batch_size=10))
    model = method.build(None, 5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(method, model, data, session(tmp_path))
    moved = torch.cat([(b - a).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert float(moved.norm().detach()) == pytest.approx(1e-3, rel=1e-3)  # one step, of a gradient that is longer


def test_every_epoch_has_an_order_of_its_own(data: TrainingData, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Watching(Mean):
        name = "watching"

        def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
            seen.append(list(batch.ids))
            return super().training_step(model, batch, step)

    method = Watching(TrainParams(image_size=16, epochs=2, batch_size=10))
    train(method, method.build(None, 5), data, session(tmp_path))
    first, second = seen
    assert first != second
    assert sorted(first) == sorted(second) == sorted(data.ids)


def test_partners_share_a_class_and_no_image_is_shown_first_twice() -> None:
    labels = torch.eye(5).repeat(4, 1)[:, [0, 1, 2, 3]]  # four classes of which the first is the background
    labels[::5, 0] = 1
    chosen = paired(labels, 6, torch.Generator().manual_seed(0))
    assert len(chosen) == 18  # three batches of three pairs of twenty images
    first = [chosen[n + i] for n in (0, 6, 12) for i in range(3)]
    second = [chosen[n + 3 + i] for n in (0, 6, 12) for i in range(3)]
    assert len({*first}) == 9
    for one, other in zip(first, second, strict=True):
        shared = (labels[one, 1:] * labels[other, 1:]).sum() > 0
        assert shared if labels[one, 1:].any() else one == other
    assert first != second
    assert paired(labels, 6, torch.Generator().manual_seed(0)) == chosen != paired(labels, 6, torch.Generator())


def test_a_phase_of_pairs_shows_them(data: TrainingData, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Paired(Mean):
        name = "paired"

        def phases(self, model: nn.Module) -> list[Phase]:
            return [Phase(1, [{"params": list(model.parameters()), "lr": 0.1}], "SGD", pairs=True)]

        def training_step(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
            seen.append(batch.labels)
            return super().training_step(model, batch, step)

    method = Paired(TrainParams(image_size=16, batch_size=4))
    train(method, method.build(None, 5), data, session(tmp_path))
    assert len(seen) == 2
    for labels in seen:
        first, second = labels.split(2)
        for one, other in zip(first, second, strict=True):
            assert not one[1:].any() or (one[1:] * other[1:]).any()
