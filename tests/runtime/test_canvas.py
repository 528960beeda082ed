"""Canvases as mixtures of windows: against eq. 8 written out, and drawn from where the exact answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import run
from smalti.families.absorbing.schedule import make_schedule
from smalti.families.canvas import canvas_denoiser, window_starts

CODES = 5
MASK = CODES
SIDES = st.tuples(st.integers(1, 7), st.integers(1, 7))
WINDOWS = st.tuples(st.integers(1, 4), st.integers(1, 4))


class Network:
    """A made-up network whose logits depend on every token, the label and the place; keeps what it was asked."""

    def __init__(self, window: tuple[int, int]) -> None:
        generator = np.random.default_rng(0)
        self.length = window[0] * window[1]
        self.weights = generator.standard_normal((self.length, CODES + 1, self.length, CODES)).astype(np.float32)
        self.labels = generator.standard_normal((4, CODES)).astype(np.float32)
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels, rows):
        assert tokens.shape[1] == self.length
        assert rows.min() >= 0
        assert rows.max() < self.length
        self.asked.append((tokens.copy(), labels.copy(), rows.copy()))
        everywhere = self.weights[np.arange(self.length), tokens].sum(1) + self.labels[labels][:, None]
        return np.take_along_axis(everywhere, rows[..., None], 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def eq8(network, grid, label, window, starts) -> np.ndarray:
    """Mixture of one canvas int [H, W], written out; float64 [H, W, K], NaN where no window is."""
    tall, wide = window
    height, width = grid.shape
    total, count = np.zeros((height, width, CODES)), np.zeros((height, width, 1))
    little = 2.0**-20
    every = np.arange(tall * wide, dtype=np.int32)[None]
    for top, left in itertools.product(*starts):
        part = np.full((tall, wide), MASK, np.int32)
        inside = [(y, x) for y in range(tall) for x in range(wide) if 0 <= top + y < height and 0 <= left + x < width]
        for y, x in inside:
            part[y, x] = grid[top + y, left + x]
        says = softmax(network(part.reshape(1, -1), np.array([label]), every))[0].reshape(tall, wide, CODES)
        for y, x in inside:
            cut = (y == 0 and top > 0) or (y == tall - 1 and top + tall < height)
            cut |= (x == 0 and left > 0) or (x == wide - 1 and left + wide < width)
            total[top + y, left + x] += says[y, x] * (little if cut else 1)
            count[top + y, left + x] += little if cut else 1
    with np.errstate(invalid="ignore"):
        return total / count


@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_windows_cover_the_whole_axis_and_stay_on_it(side, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(side, window, stride)
    assert set(range(side)) <= {start + i for start in starts for i in range(window)}
    assert starts == sorted(set(starts))
    assert {starts[0], starts[-1]} <= {0, side - window}
    assert all(0 < after - before <= stride for before, after in itertools.pairwise(starts))
    if stride == 1:
        assert len(starts) == abs(side - window) + 1


@pytest.mark.cases
@settings(max_examples=60, deadline=None)
@given(SIDES, WINDOWS, st.integers(1, 4), st.integers(0, 2**32), st.data())
def test_the_mixture_is_eq_8_at_any_size_and_stride(canvas, window, batch, seed, data):
    stride = tuple(data.draw(st.integers(1, side)) for side in window)
    generator, count = np.random.default_rng(seed), 3
    tokens = generator.integers(0, MASK + 1, (count, canvas[0] * canvas[1])).astype(np.int32)
    labels = generator.integers(0, 4, count).astype(np.int32)
    rows = generator.integers(0, canvas[0] * canvas[1], (count, 6)).astype(np.int32)  # with repeats
    network = Network(window)
    denoise = canvas_denoiser(network, canvas, window, stride=stride, mask=MASK, batch=batch)
    found = denoise(tokens, labels, rows)
    assert found.dtype == np.float32
    if canvas != window:
        assert all(len(asked) <= batch for asked, _, _ in network.asked)
    starts = [window_starts(*sizes) for sizes in zip(canvas, window, stride)]
    for index in range(count):
        exact = eq8(Network(window), tokens[index].reshape(canvas), labels[index], window, starts)
        assert not np.isnan(exact).any()  # every position is covered, also where the stride does not divide
        np.testing.assert_allclose(softmax(found[index]), exact.reshape(-1, CODES)[rows[index]], atol=1e-4)
        if canvas != window:  # then they are logarithms of probabilities
            np.testing.assert_allclose(np.exp(found[index]).sum(-1), 1, atol=1e-3)
        alone = denoise(tokens[index : index + 1], labels[index : index + 1], rows[index : index + 1])
        assert np.array_equal(alone[0], found[index])


def test_only_windows_over_asked_positions_are_evaluated_and_only_there():
    network = Network((3, 3))
    denoise = canvas_denoiser(network, (3, 9), (3, 3))
    tokens = np.arange(27, dtype=np.int32)[None] % CODES
    denoise(tokens, np.zeros(1, np.int32), np.array([[0, 9]], np.int32))  # the first column: one window has it
    ((parts, _, rows),) = network.asked
    assert parts.tolist() == [[0, 1, 2, 4, 0, 1, 3, 4, 0]]
    assert rows.tolist() == [[0, 3]]
    network.asked.clear()
    denoise(tokens, np.zeros(1, np.int32), np.array([[13]], np.int32))  # the centre: three have it
    ((parts, _, rows),) = network.asked
    assert len(parts) == 3
    assert rows.tolist() == [[5], [4], [3]]


def test_samples_may_ask_for_different_windows():
    network, generator = Network((2, 2)), np.random.default_rng(1)
    denoise = canvas_denoiser(network, (4, 5), (2, 2), stride=2, batch=3)
    tokens = generator.integers(0, MASK + 1, (3, 20)).astype(np.int32)
    labels = np.array([0, 1, 2], np.int32)
    rows = np.array([[0, 0], [19, 7], [8, 3]], np.int32)
    found = denoise(tokens, labels, rows)
    assert sum(len(asked) for asked, _, _ in network.asked) == 1 + 2 + 2
    starts = [[0, 2], [0, 2, 3]]
    for index in range(3):
        exact = eq8(Network((2, 2)), tokens[index].reshape(4, 5), labels[index], (2, 2), starts).reshape(20, CODES)
        np.testing.assert_allclose(np.exp(found[index]), exact[rows[index]], atol=1e-4)


def test_a_canvas_of_one_window_is_the_plain_sampler():
    network, seeds = Network((3, 3)), range(200)

    def tokens(denoiser):
        start = np.full((200, 9), MASK, np.int32)
        labels = np.zeros(200, np.int32)
        options = {"seeds": seeds, "labels": labels, "width": 3, "temperature": 0.9}
        *_, final = run(denoiser, start, make_schedule(seeds, (3, 3), 4, "binomial"), **options)
        return final

    assert np.array_equal(tokens(canvas_denoiser(network, (3, 3), (3, 3), stride=2)), tokens(network))


def test_draws_on_a_canvas_follow_the_enumerated_mixture_at_its_temperature():
    """Three places, windows of two, two codes: the order is fixed, so all eight grids have a known chance."""
    window = np.random.default_rng(5).standard_normal((3, 3, 2, 2))  # by what the window shows, place, code

    def network(tokens, labels, rows):
        return window[tokens[:, 0], tokens[:, 1]][np.arange(len(rows))[:, None], rows].astype(np.float32)

    samples, temperature, order = 3_000, 0.8, (1, 0, 2)
    denoise = canvas_denoiser(network, (1, 3), (1, 2), batch=512)

    def chance(seen: list[int], place: int) -> np.ndarray:
        windows = [(left, place - left) for left in (0, 1) if 0 <= place - left < 2]
        mixture = np.mean([softmax(window[seen[left], seen[left + 1], inside]) for left, inside in windows], axis=0)
        return mixture ** (1 / temperature) / (mixture ** (1 / temperature)).sum()

    exact = np.empty(8)
    for index, grid in enumerate(itertools.product(range(2), repeat=3)):
        seen, exact[index] = [2, 2, 2], 1.0
        for place in order:
            exact[index] *= chance(seen, place)[grid[place]]
            seen[place] = grid[place]
    schedule = make_schedule(range(samples), (1, 3), 3)
    positions = np.tile(np.array(order, np.int32)[:, None], (samples, 1, 1))
    *_, final = run(
        denoise,
        np.full((samples, 3), 2, np.int32),
        type(schedule)(positions, np.tile(np.arange(3, dtype=np.int32), (samples, 1))),
        seeds=range(samples),
        labels=np.zeros(samples, np.int32),
        width=3,
        temperature=temperature,
    )
    counts = np.bincount(final @ [4, 2, 1], minlength=8)
    assert exact.sum() == pytest.approx(1)
    assert chi_square_z(counts, exact) < 3.7


def test_what_every_window_forbids_stays_forbidden():
    def network(tokens, labels, rows):
        logits = np.zeros((*rows.shape, 3), np.float16)
        logits[..., 1] = -np.inf
        logits[tokens[:, 0] == 2, :, 2] = -np.inf
        return logits

    denoise = canvas_denoiser(network, (1, 3), (1, 2))
    found = denoise(np.array([[2, 0, 0]], np.int32), np.zeros(1, np.int32), np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(np.exp(found[0]), [[1, 0, 0], [0.75, 0, 0.25], [0.5, 0, 0.5]], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 4}, "allowed are 1 .. 3 down and 1 .. 3 right; more would leave gaps"),
        ({"stride": (1, 0)}, "stride 1, 0: allowed are"),
        ({"canvas": (2, 9)}, "canvas 2x9 is smaller than the grid of 3x3"),
        ({"canvas": (0, 9)}, "at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_what_cannot_be_covered_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        canvas_denoiser(Network((3, 3)), **{"canvas": (5, 5), "window": (3, 3), **options})


def test_rows_are_needed():
    denoise = canvas_denoiser(Network((3, 3)), (5, 5), (3, 3))
    with pytest.raises(UsageError, match="rows is empty"):
        denoise(np.zeros((1, 25), np.int32), np.zeros(1, np.int32), np.empty((1, 0), np.int32))
