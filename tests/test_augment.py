import numpy as np
import pytest
import torch
from PIL import Image

from harness.augment import draw
from harness.images import squash
from harness.loader import TrainingData
from harness.phases import Augment


def image_of(height: int, width: int) -> Image.Image:
    """An image whose red is its row and whose green is its column, from 1."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    return Image.fromarray(np.stack([rows, columns, np.full_like(rows, 200)], 2).astype(np.uint8))


def test_a_plain_draw_is_the_squashed_image_and_all_of_it_is_valid() -> None:
    image = image_of(9, 7)
    pixels, valid, pseudo = draw(image, [], Augment(16), 0)
    assert torch.equal(pixels.float() / 255, squash(np.asarray(image), (16, 16)))
    assert valid.all()
    assert pseudo.shape == (0, 16, 16)


def test_padding_is_black_invalid_and_unknown_and_everything_moves_together() -> None:
    image = image_of(6, 10)
    mask = Image.fromarray(np.asarray(image)[:, :, 1] % 4)  # the column says the class
    places = set()
    for seed in range(20):
        pixels, valid, pseudo = draw(image, [mask], Augment(16, "scale", flip=0.5), seed)
        inside = valid[0]
        assert inside.sum() == 60
        assert (pixels[:, ~inside] == 0).all()
        assert (pseudo[0][~inside] == 255).all()
        columns = pixels[1][inside].long()
        assert torch.equal(pseudo[0][inside], columns % 4)
        row, column = inside.nonzero()[0].tolist()
        places.add((row, column, bool(columns[0] > columns[1])))
    assert len(places) > 15  # places and mirroring are drawn


def test_the_long_side_is_drawn_from_its_range() -> None:
    sides = {
        int(draw(image_of(6, 12), [], Augment(40, "long_side", (20, 40)), seed)[1].any(1).sum()) for seed in range(30)
    }
    assert min(sides) >= 20
    assert max(sides) <= 40
    assert len(sides) > 8


def test_a_crop_is_as_large_as_asked_and_shows_the_image_at_its_scale() -> None:
    pixels, valid, _ = draw(image_of(30, 40), [], Augment(16, "scale"), 3)
    assert valid.all()
    rows = pixels[0, :, 0].long()
    assert rows.diff().tolist() == [1] * 15


def test_a_crop_of_an_area_has_no_padding() -> None:
    for seed in range(10):
        pixels, valid, _ = draw(image_of(30, 40), [], Augment(16, "area", (0.3, 0.6)), seed)
        assert valid.all()
        assert pixels[2].unique().tolist() == [200]
        rows, columns = (int(part.max()) - int(part.min()) for part in pixels[:2])
        seen = rows * columns / (30 * 40)
        assert 0.15 < seen < 0.65


def test_a_draw_depends_on_its_seed_alone_and_moves_no_other_randomness() -> None:
    augment = Augment(16, "scale", (0.5, 1.5), 0.5, (0.3, 0.3, 0.3, 0.1))
    torch.manual_seed(1)
    first, state = draw(image_of(30, 40), [], augment, 5)[0], torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(draw(image_of(30, 40), [], augment, 5)[0], first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        image_of(8, 8).save(folder / f"{number}.png")
        Image.fromarray(np.full((8, 8), 20 if number % 2 else 255, np.uint8)).save(folder / f"mask-{number}.png")
    labels = torch.tensor([[1.0, number == 5] for number in range(6)])
    masks = [folder / f"mask-{number}.png" for number in range(6)]
    paths = [folder / f"{number}.png" for number in range(6)]
    return TrainingData([str(n) for n in range(6)], labels, paths, pseudo=[masks], class_ids=[0, 20])


def test_pseudo_masks_come_as_positions_of_classes(data: TrainingData) -> None:
    for batch in data.batches(Augment(8), 2, 0):
        for image_id, mask in zip(batch.ids, batch.pseudo, strict=True):
            assert mask.unique().tolist() == ([1] if int(image_id) % 2 else [255])


def test_odds_decide_how_often_an_image_is_drawn(data: TrainingData) -> None:
    drawn = [
        i for seed in range(20) for b in data.batches(8, 2, seed, lambda labels: labels[:, 1] * 5 + 1) for i in b.ids
    ]
    assert 0.35 < drawn.count("5") / len(drawn) < 0.65  # 6 of 11


def test_in_order_is_every_image_once(data: TrainingData) -> None:
    assert [i for batch in data.in_order(8, 4) for i in batch.ids] == data.ids
