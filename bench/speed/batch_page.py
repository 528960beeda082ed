"""The page of what batches cost, from the figures that ``batches.py`` keeps."""

from __future__ import annotations

from typing import Any

from smalti.system.platform import system_name
from smalti.verification.doctor.hardware import find_processor
from smalti_kernels.platform import usable_cores

COMMAND = "python bench/speed/batches.py"


def page(figures: dict[str, Any]) -> str:
    """Return the page; parts that were not measured are left out."""
    machines: dict[str, list[str]] = {}
    for name, one in figures.items():
        machines.setdefault(one["machine"], []).append(name)
    where = (
        next(iter(machines))
        if len(machines) == 1
        else "; ".join(f"{', '.join(machines[one])}: {one}" for one in machines)
    )
    parts = [
        f"# Batches, measured\n\nOn {where}, without a GPU; the embedded bundle, 256x256 pixels, 12 steps, int8, one "
        "thread for each actor. Written by `bench/speed/batches.py`, with all figures in "
        "[figures.json](batch/figures.json)."
    ]
    for name, write in PARTS.items():
        there = [figures[key] for key in figures if key.partition(",")[0] == name]
        if there:
            parts.append(write(there))
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Name the machine that a figure is measured on."""
    found = find_processor(usable_cores())
    return f"{found.cores} CPU cores ({found.name}, {', '.join(found.instructions or ())}), {system_name()}"


def scaling(found: list[dict[str, Any]]) -> str:
    """1 and 2 workers."""
    one = found[0]
    rows = ["| | 1, per second | 2, per second | gain | of what programs gain |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, told in (("programs", "programs"), ("processes", "processes"), ("ray", "actors of Ray")):
        share = f"**{one[f'{name} share']:.0%}**" if f"{name} share" in one else ""
        cells = (one[f"{name} 1"]["per second"], one[f"{name} 2"]["per second"], one[f"{name} gain"])
        rows.append(f"| {told} | {cells[0]:.2f} | {cells[1]:.2f} | {cells[2]:.2f} | {share} |")
    return (
        f"## From one worker to two\n\n`{COMMAND} scaling`: {one['pictures of each']} pictures for each worker, whole "
        "commands, their starts included. Programs know nothing of each other, and write no files. Wanted: 85 %.\n\n"
        + "\n".join(rows)
    )


def overhead(found: list[dict[str, Any]]) -> str:
    """One worker."""
    one = found[0]
    more, loops = one["more"], ", ".join(f"{seconds:.1f}" for seconds in one["loops"])
    return (
        f"## What one worker costs\n\n`{COMMAND} overhead`: {one['pictures']} pictures, whole commands, starts and "
        "ends included, of Ray's own nodes too. A plain loop makes the same draws, PNGs and digests, and writes no "
        "files.\n\n"
        "| | seconds | more than a loop | more than the same command over processes |\n| --- | ---: | ---: | ---: |\n"
        f"| a plain loop, before and after | {loops} | | |\n"
        f"| one process | {one['process']:.1f} | {more['of a process']:.1%} | |\n"
        f"| one actor of Ray, started for it | {one['ray']:.1f} | {more['of Ray']:.1%} | "
        f"**{more['of Ray over a process']:.1%}** (wanted: 10) |"
    )


def memory(found: list[dict[str, Any]]) -> str:
    """Both ways."""
    rows = ["| | seconds | MB of files | first process, MB | a worker, MB |", "| --- | ---: | ---: | --- | --- |"]
    for one in found:
        held = [", ".join(map(str, one[f"{who}, MB at 20, 50, 90 %"])) for who in ("first process", "a worker")]
        name = "processes" if one["address"] == "processes" else "Ray"
        rows.append(f"| {name} | {one['seconds']:.0f} | {one['bytes of files'] / 1e6:.0f} | {held[0]} | {held[1]} |")
    return (
        f"## Memory\n\n`{COMMAND} memory` and `memory --processes`: {found[0]['rows']:,} rows of a bundle without "
        "graphs, two workers; what is resident after 20, 50 and 90 % of the time.\n\n" + "\n".join(rows)
    )


def embed(found: list[dict[str, Any]]) -> str:
    """Embedding."""
    one = found[0]
    return (
        f"## Embedding\n\n`{COMMAND} embed`: {one['pictures']} pictures, two processes: **{one['embed']:.1f} per "
        f"second**, {one['bytes of each row']:.0f} bytes each. `verify`, with eight embedded again: "
        f"{one['verify']:.0f} per second, start included."
    )


def sizes(found: list[dict[str, Any]]) -> str:
    """Bytes."""
    one = found[0]
    names = (("png", "with PNG"), ("pixels", "with pixels"), ("none", "tokens alone"))
    kept = "; ".join(f"{told} {one[f'bytes of each, {name}']:,}" for name, told in names)
    return (
        f"## Bytes of a picture\n\n`{COMMAND} sizes`: {one['pictures']} pictures in Parquet: {kept}. `verify` of those "
        f"with PNG, one process, start included: {one['verify']:.0f} per second."
    )


def driver(found: list[dict[str, Any]]) -> str:
    """The first process."""
    one = found[0]
    return (
        f"## The first process\n\n`{COMMAND} driver`: {one['files']:,} files of one row of a bundle without graphs: "
        f"{one['files per second']:.0f} files per second handed out to two processes, written and taken back; "
        f"{one['ms of a file on resuming']:.2f} ms a file to see on resuming that it is there."
    )


PARTS = {
    "scaling": scaling,
    "overhead": overhead,
    "memory": memory,
    "embed": embed,
    "sizes": sizes,
    "driver": driver,
}
