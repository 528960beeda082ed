"""A batch of many pictures on paper, from measured figures: ``python bench/speed/batch_on_paper.py [--pictures 1e8]``.

It reads what ``batches.py`` measured, and multiplies. Prices are arguments, since they differ; those here are examples.
``--write`` puts the table into docs/batch.md; a test compares them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[2]
FIGURES, PAGE = HOUSE / "bench/results/batch/figures.json", HOUSE / "docs/batch.md"
TABLE = re.compile(r"\| what \| how \| figure \|\n(?:\|.*\n)+")
"""Where the page has it."""
Row = tuple[str, str, str]


def drawing(asked: argparse.Namespace, rate: float) -> Iterator[Row]:
    """Time and price of drawing, at ``rate`` pictures per second of a core."""
    hours = asked.pictures / rate / 3600
    yield "pictures per second of a core", "measured, beside another one", f"{rate:.2f}"
    yield "core hours", "pictures / that", f"{hours:,.0f}"
    yield (
        f"hours on {asked.cores:,} cores",
        "core hours / cores; starts and losses left out",
        f"{hours / asked.cores:,.1f}",
    )
    yield "price of drawing", f"{asked.core_hour} for a core hour", f"{hours * asked.core_hour:,.0f}"


def keeping(asked: argparse.Namespace, seconds: float, sizes: dict[str, Any]) -> Iterator[Row]:
    """Bytes, network and price of what is kept."""
    for kept, told in (("png", "with PNG"), ("pixels", "with pixels"), ("none", "tokens alone")):
        each = sizes[f"bytes of each, {kept}"]
        total = asked.pictures * each
        yield f"terabytes, {told}", f"measured: {each:,} bytes each", f"{total / 1e12:.2f}"
        yield f"network, {told}", "bytes / seconds, to the shared folder", f"{8 * total / seconds / 1e9:.2f} Gbit/s"
        price = total / 1e12 * asked.terabyte_month
        yield f"price of a month, {told}", f"{asked.terabyte_month} for a terabyte", f"{price:,.0f}"


def filing(asked: argparse.Namespace, rate: float, seconds: float, driver: dict[str, Any]) -> Iterator[Row]:
    """Files, and what the first process does for them."""
    files, most = asked.pictures / asked.rows_per_file, driver["files per second"]
    look = driver["ms of a file on resuming"]
    yield "files", f"{asked.rows_per_file:,} rows each", f"{files:,.0f}"
    yield "seconds of a file", "its rows / pictures per second of a core", f"{asked.rows_per_file / rate:,.0f}"
    yield "files per second", "files / seconds", f"{files / seconds:.2f}"
    yield "share of what one driver can", f"measured: {most:.0f} files per second", f"{files / seconds / most:.1%}"
    yield "seconds to look what is there, to resume", f"measured: {look:.2f} ms a file", f"{files * look / 1e3:,.0f}"


def afterwards(asked: argparse.Namespace, measured: dict[str, Any]) -> Iterator[Row]:
    """Verifying and embedding."""
    verify, embed = measured["sizes"]["verify"], measured["embed"]["embed"] / 2
    each = measured["embed"]["bytes of each row"]
    hours = asked.pictures / 3600
    yield "core hours of verifying, PNG", f"measured: {verify:.0f} rows per second", f"{hours / verify:,.0f}"
    yield "core hours of embedding as many", f"measured: {embed:.1f} per second of a core", f"{hours / embed:,.0f}"
    yield "terabytes of vectors", f"measured: {each:,.0f} bytes each", f"{asked.pictures * each / 1e12:.2f}"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read what is asked; ``given`` defaults to the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=float, default=1e8)
    parser.add_argument("--cores", type=int, default=1000)
    parser.add_argument("--rows-per-file", type=int, default=10_000)
    parser.add_argument("--core-hour", type=float, default=0.04, help="price of a core for an hour")
    parser.add_argument("--terabyte-month", type=float, default=20.0, help="price of a terabyte for a month")
    parser.add_argument("--write", action="store_true", help="put the table into docs/batch.md")
    return parser.parse_args(given)


def table(asked: argparse.Namespace) -> str:
    """Return all rows as a table of Markdown."""
    measured = json.loads(FIGURES.read_text("utf-8"))
    rate = measured["scaling"]["processes 2"]["per second"] / 2
    seconds = asked.pictures / rate / asked.cores
    rows = [
        ("what", "how", "figure"),
        ("---", "---", "---:"),
        *drawing(asked, rate),
        *keeping(asked, seconds, measured["sizes"]),
        *filing(asked, rate, seconds, measured["driver"]),
        *afterwards(asked, measured),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    asked = arguments()
    made = table(asked)
    print(f"{asked.pictures:,.0f} pictures\n\n{made}", end="")
    if asked.write:
        PAGE.write_text(TABLE.sub(lambda _: made, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
