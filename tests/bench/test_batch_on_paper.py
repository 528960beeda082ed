"""The table "Scale on paper" of ``docs/batch.md`` is what ``bench/speed/batch_on_paper.py`` makes of its figures."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/speed"))
try:
    paper = importlib.import_module("batch_on_paper")
finally:
    sys.path.pop(0)


def test_the_page_has_the_table_of_the_committed_figures() -> None:
    found = paper.TABLE.search(paper.PAGE.read_text("utf-8"))
    assert found is not None
    wanted = paper.table(paper.arguments([]))
    assert found[0] == wanted, "run python bench/speed/batch_on_paper.py --write"


def test_ten_times_the_pictures_take_ten_times_the_hours_and_bytes() -> None:
    once, more = (
        dict(line.strip("| \n").split(" | ")[::2] for line in paper.table(paper.arguments(given)).splitlines())
        for given in (["--pictures", "1e9"], ["--pictures", "1e10"])
    )

    def number(text: str) -> float:
        return float(text.partition(" ")[0].replace(",", ""))

    assert abs(number(more["core hours"]) / number(once["core hours"]) - 10) < 0.01
    assert number(more["files"]) == 10 * number(once["files"])
    assert once["seconds of a file"] == more["seconds of a file"]
