from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti_train.objectives.time_sampling import ImportanceTimes

STEPS = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(losses: torch.Tensor, rounds: int) -> ImportanceTimes:
    times = ImportanceTimes(len(losses))
    for _ in range(rounds):
        times.update(torch.arange(1, len(losses) + 1), losses)
    return times


def chi_square(drawn: torch.Tensor, chances: torch.Tensor) -> float:
    counts = np.bincount(drawn.numpy(), minlength=STEPS + 1)
    assert counts[0] == 0
    expected = chances.numpy() * len(drawn)
    return float((np.square(counts[1:] - expected) / expected).sum())


def test_times_are_uniform_until_each_was_seen_more_than_ten_times() -> None:
    losses = torch.tensor([1.0, 2, 4, 8, 16])
    times = filled(losses, 10)
    assert not times.ready
    drawn, weights = times.draw(10_000, seeded())
    assert chi_square(drawn, torch.full((STEPS,), 0.2)) < 23.5  # p = 1e-4 at 4 degrees of freedom
    torch.testing.assert_close(weights, torch.ones(10_000))
    times.update(torch.tensor([1, 2, 3, 4]), losses[:4])
    assert not times.ready
    times.update(torch.tensor([5]), losses[4:])
    assert times.ready


def test_then_they_follow_the_root_of_their_mean_squared_loss() -> None:
    losses = torch.tensor([1.0, 2, 4, 8, 16])
    times = filled(losses, 11)
    torch.testing.assert_close(times.chances(), losses / losses.sum(), atol=1e-4, rtol=0)
    drawn, weights = times.draw(20_000, seeded(1))
    assert drawn.dtype == torch.int64
    assert chi_square(drawn, times.chances()) < 23.5
    torch.testing.assert_close(weights, 1 / (STEPS * times.chances()[drawn - 1]))


def test_weighted_losses_have_the_mean_of_uniform_times_and_less_variance() -> None:
    losses = torch.tensor([0.1, 3.0, 0.5, 9.0, 1.0])
    times = filled(losses, 20)
    chances = times.chances()
    values = losses / (STEPS * chances)  # weight times loss, of each time
    assert float((chances * values).sum()) == pytest.approx(losses.mean().item(), rel=1e-5)
    variance = float((chances * values.square()).sum()) - losses.mean().item() ** 2
    assert variance < 1e-3 * losses.var().item()


def test_the_history_is_a_moving_average_of_squares_one_sample_after_the_other() -> None:
    times = ImportanceTimes(STEPS)
    times.update(torch.tensor([2, 5, 2]), torch.tensor([3.0, 1.0, 2.0]))
    expected = torch.zeros(STEPS + 1)
    expected[2], expected[5] = 0.9 * 0.1 * 9 + 0.1 * 4, 0.1
    torch.testing.assert_close(times.Lt_history, expected)
    assert times.Lt_count.tolist() == [0, 0, 2, 0, 0, 1]


def test_the_state_goes_through_a_checkpoint_under_its_published_names() -> None:
    times = filled(torch.tensor([1.0, 2, 4, 8, 16]), 12)
    state = times.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {"Lt_history": (6,), "Lt_count": (6,)}
    other = ImportanceTimes(STEPS)
    other.load_state_dict(state)
    assert torch.equal(other.draw(50, seeded(3))[0], times.draw(50, seeded(3))[0])


def test_a_time_without_loss_is_never_given_up() -> None:
    times = filled(torch.tensor([0.0, 1.0, 1.0]), 30)
    assert 0 < times.chances()[0] < 1e-3
    assert times.draw(10, seeded())[1].isfinite().all()


def test_losses_that_are_not_finite_are_passed_over() -> None:
    times = ImportanceTimes(STEPS)
    times.update(torch.tensor([1, 2, 3]), torch.tensor([float("nan"), 2.0, float("inf")]))
    assert times.Lt_count.tolist() == [0, 0, 1, 0, 0, 0]
    assert times.Lt_history.isfinite().all()


def test_times_outside_the_range_are_refused() -> None:
    times = ImportanceTimes(STEPS)
    for wrong in (0, 6):
        with pytest.raises(UsageError, match=rf"times must be 1 .. 5; got {wrong} .. {wrong}"):
            times.update(torch.tensor([wrong]), torch.ones(1))
    with pytest.raises(UsageError, match="steps 0: at least 1"):
        ImportanceTimes(0)
