"""Baselines of ``smalti bench``: the score, the decision, the file, and exit code 7."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

import smalti
from smalti.backends.onnxruntime_options import onnxruntime
from smalti.cli.bench import told
from smalti.errors import SpeedRegression, UsageError, exit_code
from smalti.verification.speed import run as runs
from smalti.verification.speed.baseline import Compared, changes, check_comparable, compare, read_baseline
from smalti.verification.speed.unit import GRAPH, Score, open_unit, score_of

QUICK = ("--provider", "cpu", "--threads", 1, "--steps", 2, "--repeats", 3)


@pytest.fixture
def saved(run, out):
    """A baseline of the tiny bundle."""
    code, said, error = run("bench", *QUICK, "--save-baseline", out / "b.json", "--json")
    assert code == 0, error
    assert json.loads(said)["score"]["median"] > 0
    return out / "b.json"


def score(median: float, spread: float = 0.01) -> Score:
    return Score(median=median, low=median - spread, high=median + spread, runs=15, product=0.01)


def scored(path, median: float) -> None:
    """Put another score into a baseline."""
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(read_baseline(path), score=score(median, 1e-9))))


def test_the_unit_is_a_product_of_two_matrices():
    session = onnxruntime().InferenceSession(GRAPH, providers=["CPUExecutionProvider"])
    a, b = np.random.default_rng(1).standard_normal((2, 8, 8), dtype=np.float32)
    assert np.allclose(session.run(None, {"a": a, "b": b})[0], a @ b, atol=1e-5)
    unit = open_unit(1, 1.0)
    assert unit.number >= 2
    assert unit() > 0


def test_a_score_is_seconds_by_the_products_around_a_draw():
    # The machine is half as fast during the second draw, and so are the products around it.
    found = score_of([2.0, 3.0, 2.0, 2.2, 2.0], [1.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    assert found.median == pytest.approx(2.0)
    assert found.low <= found.median <= found.high
    assert found.product == 1.0
    assert found.runs == 5


def test_the_spread_of_a_score_is_that_of_the_medians_of_such_runs():
    runs = np.random.default_rng(0).normal(10, 1, (20_000, 15))
    medians = np.median(runs, axis=1)
    low, high = np.percentile(runs, (20, 80))
    found = Score(median=10, low=low, high=high, runs=15, product=0.01)
    assert found.spread == pytest.approx(2 * medians.std(), rel=0.05)


@pytest.mark.parametrize(
    ("before", "now", "regression"),
    [
        (score(10), score(12), True),
        (score(10), score(11.2), True),
        (score(10), score(10.9), False),  # within what is allowed
        (score(10), score(8), False),
        (score(10), score(10), False),
        (score(10, 3), score(12, 3), False),  # chance explains more
        (score(10, 1), score(12, 1), True),
    ],
)
def test_a_regression_is_worse_than_allowed_and_beyond_the_spread(before, now, regression):
    verdict = compare(before, now)
    assert verdict.regression is regression
    assert verdict.change == pytest.approx(now.median / 10 - 1)


def test_a_regression_has_exit_code_7(saved):
    baseline = read_baseline(saved)
    error = SpeedRegression(told(Compared(baseline, compare(score(10), score(12)), ())))
    assert exit_code(error) == 7
    assert "20.0% slower than the baseline, in two measurements; 10% is allowed" in str(error)
    assert smalti.SpeedRegression is SpeedRegression


def test_the_command_exits_with_7_where_it_is_slower_and_says_by_how_much(saved, run):
    scored(saved, 1e-6)
    code, said, error = run("bench", "--baseline", saved, "--json")
    assert code == 7
    assert "slower than the baseline" in error
    assert json.loads(said)["baseline"]["regression"] is True


def test_the_command_measures_as_the_baseline_was(saved, run):
    scored(saved, 1e6)
    code, said, error = run("bench", "--baseline", saved, "--repeats", 2)
    assert code == 0, error
    assert "2 steps, 2 network calls, int8 on cpu, 1 thread, 2 runs" in said
    assert "faster, no regression (allowed 10%" in said


def test_a_regression_is_measured_a_second_time(saved, monkeypatch, run):
    median = iter([12.0, 10.1])
    monkeypatch.setattr(runs, "score_of", lambda draws, units: score(next(median)))
    scored(saved, 10)
    code, said, _ = run("bench", "--baseline", saved, "--json")
    assert code == 0
    assert json.loads(said)["baseline"]["change"] == pytest.approx(0.01)
    assert next(median, None) is None


def test_a_baseline_can_be_compared_with_and_replaced_at_once(saved, run):
    scored(saved, 1e6)
    code, _, error = run("bench", "--baseline", saved, "--save-baseline", saved)
    assert code == 0, error
    assert read_baseline(saved).score.median < 1e6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "3"], "steps 3 in place of 2"),
        (["--count", "2"], "count 2 in place of 1"),
        (["--precision", "fp32"], "precision"),
    ],
)
def test_another_kind_of_draw_is_refused(words, says, saved, run):
    code, said, error = run("bench", "--baseline", saved, *words)
    assert (code, said) == (2, "")
    assert "the baseline is of something else" in error
    assert says in error


def test_another_bundle_is_refused_and_another_version_is_told(saved):
    before = read_baseline(saved)
    with pytest.raises(UsageError, match=r"digest 0{12} in place of"):
        check_comparable(before, msgspec.structs.replace(before, digest="0" * 64))
    now = msgspec.structs.replace(before, versions={**before.versions, "numpy": "9.9"}, processor="another")
    check_comparable(before, now)
    told_of = [f"numpy 9.9, it was {before.versions['numpy']}", f"processor another, it was {before.processor}"]
    assert changes(before, now) == told_of


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"format": 1}', b"\xff"])
def test_a_file_that_is_no_baseline_is_refused(content, run, out):
    path = out / "b.json"
    if content is not None:
        path.write_bytes(content)
    code, said, error = run("bench", "--baseline", path)
    assert (code, said) == (2, "")
    assert str(path) in error


@pytest.mark.parametrize("change", [{"format": 2}, {"score": score(0.0)}])
def test_a_baseline_that_says_nothing_is_refused(change, saved, run):
    saved.write_bytes(msgspec.json.encode(msgspec.structs.replace(read_baseline(saved), **change)))
    code, _, error = run("bench", "--baseline", saved)
    assert code == 2
    assert "--save-baseline writes a new one" in error
