"""PAMR against slow loops, by hand where that is possible, and from the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from wsss_methods.pamr import PAMR, PAMRParams, affinities

from harness.data.base import open_mask
from tests.conftest import Run


def refine(image: np.ndarray, mask: np.ndarray, dilations: Sequence[int] = (1,), iterations: int = 1) -> np.ndarray:
    return PAMR(PAMRParams(dilations=tuple(dilations), iterations=iterations)).refine(image, mask)


def by_loops(image: np.ndarray, mask: np.ndarray, dilations: Sequence[int], iterations: int) -> np.ndarray:
    """Refine pixel by pixel, in float64, from the definition."""
    height, width = image.shape[:2]

    def around(y: int, x: int, centre: bool) -> list[tuple[int, int]]:
        return [
            (min(max(y + d * down, 0), height - 1), min(max(x + d * right, 0), width - 1))
            for d in dilations
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if centre or (down, right) != (0, 0)
        ]

    now, colours = mask.astype(np.float64), image.astype(np.float64)
    for _ in range(iterations):
        before, now = now, np.empty_like(now)
        for y in range(height):
            for x in range(width):
                seen = np.array([colours[there] for there in around(y, x, centre=True)])
                unit = 1e-8 + 0.1 * seen.std(axis=0, ddof=1)
                likeness = [-np.mean(np.abs(colours[y, x] - colours[j]) / unit) for j in around(y, x, centre=False)]
                weights = np.exp(likeness) / np.exp(likeness).sum()
                values = [before[:, j[0], j[1]] for j in around(y, x, centre=False)]
                now[:, y, x] = weights @ np.array(values)
    return now


def an_image(height: int, width: int) -> np.ndarray:
    """Draw two colours with noise, so that both near and far colours occur."""
    image = np.where(np.arange(width)[:, None] < width // 2, [40, 90, 200], [180, 120, 60])
    return (image + np.random.default_rng(0).integers(-20, 20, (height, width, 3))).astype(np.uint8)


def probabilities(channels: int, height: int, width: int) -> np.ndarray:
    mask = np.random.default_rng(1).random((channels, height, width)).astype(np.float32)
    return mask / mask.sum(0)


@pytest.mark.parametrize(
    ("size", "dilations", "iterations"),
    [((9, 11), (1,), 1), ((9, 11), (1, 2, 4, 8, 12, 24), 3), ((3, 2), (2, 5), 2), ((1, 1), (1, 3), 1)],
)
def test_it_is_what_the_definition_says(size: tuple[int, int], dilations: tuple[int, ...], iterations: int) -> None:
    image, mask = an_image(*size), probabilities(3, *size)
    expected = by_loops(image, mask, dilations, iterations)
    assert refine(image, mask, dilations, iterations) == pytest.approx(expected, abs=2e-6)


def test_the_defaults_are_the_authors() -> None:
    assert PAMRParams().model_dump(include={"dilations", "iterations"}) == {
        "dilations": (1, 2, 4, 8, 12, 24), "iterations": 10,
    }  # fmt: skip


def test_on_one_colour_each_pixel_becomes_the_mean_of_its_neighbours_and_borders_are_repeated() -> None:
    image = np.full((3, 3, 3), 77, np.uint8)
    middle, corner = np.zeros((2, 1, 3, 3), np.float32)
    middle[0, 1, 1] = corner[0, 0, 0] = 1
    assert (8 * refine(image, middle)).tolist() == [[[1, 1, 1], [1, 0, 1], [1, 1, 1]]]
    # The corner is three of its own neighbours, two of those beside it, and one of the middle's.
    assert (8 * refine(image, corner)).tolist() == [[[3, 2, 0], [2, 1, 0], [0, 0, 0]]]


def test_an_edge_of_the_image_stops_the_spreading() -> None:
    """Next to it, three of nine pixels are the other colour: deviation 255 / 2, so that they are 20 units away."""
    image = np.zeros((3, 6, 3), np.uint8)
    image[:, 3:] = 255
    weights = affinities(torch.tensor(image).permute(2, 0, 1).float(), (1,))[:, 1, 2]
    across = math.exp(-20) / (5 + 3 * math.exp(-20))
    there = [2, 4, 7]  # the right column of the eight neighbours, row by row
    assert weights[there].tolist() == pytest.approx([across] * 3, rel=1e-4)
    assert weights.sum().item() == pytest.approx(1)
    mask = np.stack([image[..., 0] == 0, image[..., 0] > 0]).astype(np.float32)
    assert refine(image, mask, (1, 2), 10) == pytest.approx(mask, abs=1e-3)
    assert refine(np.zeros_like(image), mask, (1, 2), 10)[0, 1, 2] < 0.9


def test_probabilities_stay_probabilities() -> None:
    mask = probabilities(4, 20, 30)
    refined = refine(an_image(20, 30), mask, PAMRParams().dilations, 10)
    assert (refined.shape, refined.dtype) == (mask.shape, np.float32)
    assert refined.sum(0) == pytest.approx(np.ones((20, 30)), abs=1e-5)
    lowest, highest = mask.min((1, 2)), mask.max((1, 2))
    assert (refined.min((1, 2)) >= lowest).all()
    assert (refined.max((1, 2)) <= highest).all()


def test_iterations_follow_one_another_and_the_input_stays_as_it_was() -> None:
    image, mask = an_image(12, 10), probabilities(2, 12, 10)
    image.flags.writeable = mask.flags.writeable = False
    twice = refine(image, refine(image, mask, (1, 3)), (1, 3))
    assert refine(image, mask, (1, 3), iterations=2) == pytest.approx(twice, abs=1e-6)


def test_the_order_of_dilations_is_all_one() -> None:
    image, mask = an_image(14, 15), probabilities(2, 14, 15)
    there, back = (refine(image, mask, order, 4) for order in ((1, 2, 4, 8), (8, 1, 4, 2)))
    assert there == pytest.approx(back, abs=1e-6)


def test_no_normalisation_of_the_colours_changes_anything() -> None:
    """Mean and deviation of ImageNet, [0, 1], another gain and offset for each colour, the negative: all the same."""
    colours = torch.tensor(an_image(12, 13)).permute(2, 0, 1).float()
    expected = affinities(colours, (1, 2, 4))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for normalised in ((colours / 255 - mean) / std, colours / 255, 255 - colours):
        assert torch.allclose(affinities(normalised, (1, 2, 4)), expected, atol=1e-5)
    assert not torch.allclose(affinities(colours**2, (1, 2, 4)), expected, atol=1e-2)


def test_a_noisy_mask_gets_better_and_a_shifted_edge_moves_back() -> None:
    """A disc on a ground, both noisy: a mask with one pixel in five wrong, and one that lies three pixels aside."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:60, :80]
    disc = (y - 30) ** 2 + (x - 40) ** 2 < 18**2
    image = np.where(disc[..., None], [200, 80, 60], [60, 120, 90]) + rng.integers(-12, 12, (60, 80, 3))
    for wrong, least in ((disc ^ (rng.random(disc.shape) < 0.2), 0.85), (np.roll(disc, 3, axis=1), 0.99)):
        foreground = np.where(wrong, 0.8, 0.2).astype(np.float32)
        mask = np.stack([1 - foreground, foreground])
        refined = refine(image.astype(np.uint8), mask, PAMRParams().dilations, 10).argmax(0) == 1
        before, after = ((m & disc).sum() / (m | disc).sum() for m in (wrong, refined))
        assert before < 0.82
        assert after > least


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("iteration: 3\n", "wrong.yaml:1: unknown key 'iteration': did you mean 'iterations'?"),
        ("summary: x\niterations: 0\n", "wrong.yaml:2: iterations: Input should be greater than or equal to 1 (got 0)"),
        ("dilations: []\n", "wrong.yaml:1: dilations: Tuple should have at least 1 item"),
        ("dilations: [1, 0]\n", "wrong.yaml:1: dilations.1: Input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(here: Run, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "pamr").mkdir()
    (tmp_path / "pamr" / "wrong.yaml").write_text(text)
    run = ("run", "--methods", "cam", "--refine", "pamr:wrong", "--plugins", "pamr/wrong.yaml", "--dry-run")
    found = here(*run)
    assert found.returncode == 2
    assert complaint in found.stderr


def test_a_run_refines_the_masks_by_defaults_and_by_a_preset_and_the_records_say_so(here: Run, tmp_path: Path) -> None:
    (tmp_path / "pamr").mkdir()
    (tmp_path / "pamr" / "near.yaml").write_text("summary: near\ndilations: [1]\niterations: 1\n")
    run = ("run", "--methods", "sanity-random", "--limit", "2", "--set", "protocol.eval_splits=val", "--json")
    found = here(*run, "--refine", "none,pamr,pamr:near", "--plugins", "pamr/near.yaml")
    assert found.returncode == 0, found.stderr
    records = json.loads(found.stdout)
    assert [record["spec"]["protocol"]["refine"] for record in records] == ["none", "pamr", "pamr:near"]
    rough = []
    for record in records:
        key = next(s["key"] for s in record["stages"] if s["stage"] == "mask")
        masks = sorted((tmp_path / "results" / "artefacts" / "mask" / key).glob("*.png"))
        assert len(masks) == 2
        rough.append(sum((np.diff(open_mask(path).astype(int), axis=1) != 0).sum() for path in masks))
    assert len(set(rough)) == 3  # so many changes of label along the rows: each refining moves edges
