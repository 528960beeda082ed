"""``bench/speed/fits.py`` and ``scaling.py``: exponents, predictions, flags, and turns of the points of an axis."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import smalti
from smalti.errors import OutOfMemory

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/speed"))
try:
    fits, scaling, profiling = (importlib.import_module(name) for name in ("fits", "scaling", "profiling"))
finally:
    sys.path.pop(0)


def points(totals: list[float], works: list[float], values: tuple[float, ...] = (1, 2, 4)) -> list[Any]:
    return [
        fits.Point(value, {"network": total, "total": total}, {"network": work})
        for value, total, work in zip(values, totals, works)
    ]


def test_an_exponent_is_that_of_a_power() -> None:
    values = [1, 2, 5, 9]
    assert fits.exponent(values, [3 * value**1.7 for value in values]) == pytest.approx(1.7)


def test_what_grows_as_its_work_does_is_as_predicted() -> None:
    found = points([0.5, 1, 2], [10, 20, 40])
    assert fits.predicted(found) == pytest.approx([0.5, 1, 2])
    assert fits.growth(found) == pytest.approx([1, 1])
    assert fits.flags(found) == []
    assert fits.fitted(found)["total"] == pytest.approx({"measured": 1, "predicted": 1})


def test_a_stage_without_work_is_not_predicted_to_grow() -> None:
    found = [
        fits.Point(
            value, {"network": 3.0 * value, "decoder": 1.0, "total": 3.0 * value + 1}, {"network": value, "decoder": 5}
        )
        for value in (1, 2, 4)
    ]
    assert fits.predicted(found) == pytest.approx([4, 7, 13])
    assert fits.fitted(found)["decoder"] == pytest.approx({"measured": 0, "predicted": 0})


def test_growth_beyond_15_percent_for_a_doubling_is_flagged() -> None:
    assert not fits.flags(points([1, 2 * 1.14, 4 * 1.14], [1, 2, 4]))
    flagged = fits.flags(points([1, 2, 4 * 1.16], [1, 2, 4]))
    assert len(flagged) == 1
    assert flagged[0].startswith("from 2 to 4: 1.16 times")
    assert "network" in flagged[0]
    fourfold = points([1, 4 * 1.3], [1, 4], (1, 4))  # two doublings of 1.14 each
    assert fits.growth(fourfold) == pytest.approx([1.3**0.5])
    assert not fits.flags(fourfold)


def test_the_table_marks_what_is_worse() -> None:
    text = fits.table("steps", points([1, 2, 5], [1, 2, 4]))
    assert "2.0000 | 1.00 |" in text
    assert "1.25 WORSE" in text
    assert "exponents, measured (predicted): network 1.16 (1.00)" in text
    assert "WORSE from 2 to 4" in text
    assert fits.to_dict(points([1, 2, 5], [1, 2, 4]))["worse"]


def test_the_fastest_fifth_counts() -> None:
    assert profiling.fastest([5.0, 1.0, 9.0, 3.0, 7.0]) == 1.0
    assert profiling.fastest([float(value) for value in range(10)]) == 0.5


def test_points_take_turns_and_long_ones_run_less_often() -> None:
    order: list[float] = []

    def case(value: float, seconds: float) -> Any:
        def run() -> dict[str, float]:
            order.append(value)
            return {"network": seconds, "total": seconds}

        return scaling.Case(value, run, lambda: {"network": value})

    found = scaling.timed([case(1, 0.1), case(2, 4.0), case(3, 99.0)], 3, 10.0, lambda text: None)
    assert order == [1, 1, 2, 2, 3, 1, 2, 1]
    assert [point.runs for point in found] == [3, 2, 1]


def test_what_does_not_fit_into_memory_ends_its_axis() -> None:
    def fails() -> dict[str, float]:
        raise OutOfMemory("too large")

    said: list[str] = []
    first = scaling.Case(1, lambda: {"network": 1.0, "total": 1.0}, lambda: {"network": 1.0})
    found = scaling.timed([first, scaling.Case(2, fails, dict), first], 1, 10.0, said.append)
    assert [point.value for point in found] == [1]
    assert said == ["2 and what follows did not run: too large"]


def test_work_of_a_draw_follows_its_calls(tiny_bundle: Path) -> None:
    options = argparse.Namespace(precision="fp32", threads=1, steps=2, largest=128)
    bundle = smalti.open_bundle(tiny_bundle)
    by_axis = {axis: scaling.draws(axis, bundle, options)[:2] for axis in ("steps", "batch", "canvas")}
    works = {}
    for axis, cases in by_axis.items():
        for case in cases:
            seconds = case.run()
            assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"])
        works[axis] = [case.work() for case in cases]
    one, two = works["batch"]
    assert two["decoder"] == 2 * one["decoder"]
    assert two["host"] == 2 * one["host"]
    assert two["network"] == pytest.approx(2 * one["network"])
    few, many = works["steps"]
    assert many["network"] > few["network"]
    assert many["decoder"] == few["decoder"]
    small, large = works["canvas"]
    assert large["decoder"] >= 4 * small["decoder"]
    assert large["network"] > 4 * small["network"]


def test_the_codebook_is_seen_by_the_last_product_and_the_draw() -> None:
    case = scaling.codebook_case(64, 1)
    seconds = case.run()
    assert set(seconds) == {"product", "draw", "total"}
    assert case.work() == {"product": 2.0 * 256 * 512 * 64, "draw": 256.0 * 64}


def test_a_plot_without_matplotlib_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="bench"):
        scaling.plot({"steps": points([1, 2, 4], [1, 2, 4])}, tmp_path / "plot.svg")
