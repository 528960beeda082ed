"""``bench/speed/serving.py`` for a few seconds: what it measures holds, and its table has every figure."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/speed"))
try:
    serving = importlib.import_module("serving")
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def found():
    return serving.measured(None, clients=64, seconds=8, steps=4, leaving=8, threads=1)


def test_every_answer_is_a_picture_or_a_refusal_and_each_picture_the_librarys(found):
    assert set(found["statuses"]) == {"200", "429"}
    assert found["statuses"]["429"] > found["statuses"]["200"] > 8
    assert found["seeds_compared"] > 4
    assert not found["seeds_that_differ"]


def test_refusals_come_soon_and_memory_is_flat(found):
    assert found["refused_seconds"]["median"] < 1  # the bound of 0.2 for p95 is for a machine that does nothing else
    assert found["megabytes"]["last"] - found["megabytes"]["first"] < 48


def test_work_stops_soon_after_its_client_has_left(found):
    left = found["left"]
    for kind in ("plain", "stream"):
        assert left[f"{kind}_milliseconds"]["median"] < 100 + 3 * left["milliseconds_of_a_step"]
        assert left[f"{kind}_milliseconds"]["most"] < 1000 * left["seconds_of_a_whole_draw"] / 2


def test_the_table_has_every_figure(found):
    told = serving.table(found)
    for value in (found["pictures_a_second"], found["left"]["milliseconds_of_a_step"], "64, 8"):
        assert f" {value} |" in told


def test_a_quantile_is_one_of_the_values():
    assert serving.quantile([], 0.5) == 0
    assert [serving.quantile([3, 1, 2], share) for share in (0, 0.5, 0.95, 1)] == [1, 2, 3, 3]
