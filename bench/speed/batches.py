"""What batches cost: ``python bench/speed/batches.py PIECE [--json FILE]``, a piece at a time.

scaling: pictures per second of 1 and of 2 actors, of processes and of Ray, against 1 and 2 independent programs.
overhead: seconds of 500 pictures by a worker of each kind, between two plain loops of the same draws, starts included.
memory: resident memory of the first process and of a worker while 100,000 rows of a fake bundle are written, both ways.
embed: pictures per second of ``smalti batch embed``, and of verifying.
sizes: bytes of a drawn picture by what is kept of it, and pictures per second of verifying.
driver: files per second that the first process hands out and takes back, and milliseconds of a file on resuming.

All with one thread for each actor. ``--address auto`` takes a cluster that runs, as ``bench/cluster/two_nodes.py``
starts one; otherwise Ray is started anew for each run, as ``--address local`` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from batch_page import machine, page
from PIL import Image

HOUSE = Path(__file__).parents[2]
sys.path.insert(0, str(HOUSE / "tests"))

from helpers.fake_bundle import SlowBackend, write_fake_bundle  # noqa: E402
from smalti.batch import job  # noqa: E402
from smalti.batch.asking import Asked, plan_draw  # noqa: E402
from smalti.batch.loading import Loading  # noqa: E402

PLAIN = """
import sys, time, hashlib, io
import smalti
started = time.perf_counter()
first, count = int(sys.argv[1]), int(sys.argv[2])
gen = smalti.load(provider="cpu", threads=1)
begun = time.perf_counter()
for seed in range(first, first + count, 16):
    result = gen.generate(seeds=list(range(seed, min(seed + 16, first + count))))
    for index in range(len(result.images)):
        result.save(buffer := io.BytesIO(), which=index, format="png")
        hashlib.sha256(result.images[index].tobytes()).hexdigest()
print(time.perf_counter() - started, time.perf_counter() - begun)
"""
"""The same draws, PNGs and digests, without files, plans and workers; prints seconds with and without loading."""


def programs(number: int, count: int) -> float:
    """Return the seconds until ``number`` programs that know nothing of each other drew ``count`` pictures each."""
    started = time.perf_counter()
    lines = [[sys.executable, "-c", PLAIN, str(index * count), str(count)] for index in range(number)]
    running = [subprocess.Popen(line, stdout=subprocess.DEVNULL) for line in lines]
    assert not any(process.wait() for process in running)
    return time.perf_counter() - started


def batch(count: int, actors: int, address: str | None, rows: int = 16) -> float:
    """Return the seconds of the command for ``count`` pictures, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "smalti.cli", "batch", "generate", "--count", str(count), "--provider", "cpu"]
        line += ["--rows-per-file", str(rows), "--actors", str(actors), "-o", f"{folder}/batch"]
        line += ["--address", address] if address else []
        started = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started


def scaling(address: str, count: int) -> dict[str, Any]:
    """Measure 1 and 2 workers of each kind on ``count`` and twice as many pictures, in turns.

    Twice as many for two, so that the share of the start is the same.
    """
    found: dict[str, Any] = {"pictures of each": count, "address": address}
    kinds: dict[str, Callable[[int], float]] = {
        "programs": lambda number: programs(number, count),
        "processes": lambda number: batch(number * count, number, None),
        "ray": lambda number: batch(number * count, number, address),
    }
    for number in (1, 2):
        for name, measure in kinds.items():
            seconds = measure(number)
            found[f"{name} {number}"] = {"seconds": seconds, "per second": number * count / seconds}
    for name in kinds:
        found[f"{name} gain"] = found[f"{name} 2"]["per second"] / found[f"{name} 1"]["per second"]
    for name in ("processes", "ray"):
        found[f"{name} share"] = (found[f"{name} gain"] - 1) / (found["programs gain"] - 1)
    return found


def overhead(address: str, count: int) -> dict[str, Any]:
    """Measure one worker of Ray and one process, their starts included, between two plain loops."""
    before = programs(1, count)
    ray, process = batch(count, 1, address), batch(count, 1, None)
    loops = [before, programs(1, count)]
    loop = sum(loops) / 2
    more = {"of Ray over a process": ray / process - 1, "of Ray": ray / loop - 1, "of a process": process / loop - 1}
    return {"pictures": count, "address": address, "loops": loops, "ray": ray, "process": process, "more": more}


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 where it is gone."""
    try:
        return 4096 * int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError):
        return 0


def workers() -> list[int]:
    """Return processes below this one that write rows: spawned ones, and actors of Ray."""
    table: dict[int, tuple[int, bytes]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text("utf-8").rpartition(")")[2].split()[1])
            table[int(status.parent.name)] = parent, (status.parent / "cmdline").read_bytes()
        except OSError:
            continue

    def ours(pid: int) -> bool:
        while pid in table and pid != 1:
            if pid == os.getpid():
                return True
            pid = table[pid][0]
        return False

    return [pid for pid, (_, line) in table.items() if (b"spawn_main" in line or b"ray::Actor" in line) and ours(pid)]


def memory(address: str | None, count: int) -> dict[str, Any]:
    """Measure resident memory every half a second while a batch is written by two actors."""
    os.environ["PYTHONPATH"] = str(HOUSE / "tests")
    seen: list[tuple[float, int, int]] = []
    done = threading.Event()
    started = time.perf_counter()

    def look() -> None:
        while not done.wait(0.5):
            seen.append(
                (time.perf_counter() - started, resident(os.getpid()), max(map(resident, workers()), default=0))
            )

    with tempfile.TemporaryDirectory() as folder:
        bundle, place = write_fake_bundle(Path(folder) / "bundle"), Path(folder) / "batch"
        plan_draw(Asked(place, bundle=str(bundle), fields={"rows": count}, options={"steps": 1}))
        threading.Thread(target=look, daemon=True).start()
        report = job.run(place, Loading(str(bundle), backend=SlowBackend()), job.Running(address, 2))
        done.set()
        size = sum(path.stat().st_size for path in place.iterdir())
    worked = [one for one in seen if one[2]]
    tenth = [worked[len(worked) * part // 10] for part in (2, 5, 9)]
    return {
        "rows": report.rows,
        "address": address or "processes",
        "seconds": report.seconds,
        "bytes of files": size,
        "first process, MB at 20, 50, 90 %": [round(one[1] / 1e6) for one in tenth],
        "a worker, MB at 20, 50, 90 %": [round(one[2] / 1e6) for one in tenth],
    }


def embed(count: int) -> dict[str, Any]:
    """Draw pictures of few steps into a folder, embed them with two processes, and verify the vectors."""
    with tempfile.TemporaryDirectory() as folder:
        smalti = [sys.executable, "-m", "smalti.cli"]
        draw = [*smalti, "batch", "generate", "--count", str(min(count, 200)), "--steps", "1", "--provider", "cpu"]
        subprocess.run([*draw, "--format", "folder", "-o", f"{folder}/drawn"], check=True, stderr=subprocess.DEVNULL)
        drawn = sorted(Path(folder, "drawn").rglob("*.png"))
        (pictures := Path(folder, "pictures")).mkdir()
        for index in range(count):  # each another one: equal rows would take no room
            turn = index // len(drawn)
            pixels = np.roll(np.asarray(Image.open(drawn[index % len(drawn)])), 9 * turn, axis=turn % 2)
            Image.fromarray(pixels).save(pictures / f"{index:05}.png", compress_level=1)
        found: dict[str, Any] = {"pictures": count, "actors": 2}
        line = [*smalti, "batch", "embed", str(pictures), "-o", f"{folder}/index", "--actors", "2", "--json"]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        found["embed"] = json.loads(done.stdout)["per_second"]
        found["bytes of each row"] = sum(path.stat().st_size for path in Path(folder, "index").glob("part-*")) / count
        started = time.perf_counter()
        check = [*smalti, "batch", "verify", f"{folder}/index", "--actors", "2"]
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found["verify"] = count / (time.perf_counter() - started)
        return found


def sizes(count: int) -> dict[str, Any]:
    """Draw the same pictures three times, with PNGs, pixels or tokens alone, and verify the first."""
    found: dict[str, Any] = {"pictures": count}
    with tempfile.TemporaryDirectory() as folder:
        smalti = [sys.executable, "-m", "smalti.cli", "batch"]
        for kept in ("png", "pixels", "none"):
            line = [*smalti, "generate", "--count", str(count), "--keep", kept, "--provider", "cpu", "--actors", "2"]
            subprocess.run([*line, "-o", f"{folder}/{kept}"], check=True, stdout=subprocess.DEVNULL)
            files = Path(folder, kept).glob("part-*")
            found[f"bytes of each, {kept}"] = round(sum(path.stat().st_size for path in files) / count)
        started = time.perf_counter()
        check = [*smalti, "verify", f"{folder}/png", "--actors", "1", "--sample", "0"]
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
        found["verify"] = count / (time.perf_counter() - started)
    return found


def driver(count: int) -> dict[str, Any]:
    """Write files of one row of a fake bundle, so that handing out is most of the work; then look what is there."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, place = write_fake_bundle(Path(folder) / "bundle"), Path(folder) / "batch"
        fields = {"rows": count, "rows_per_file": 1, "keep": "none"}
        planned = plan_draw(Asked(place, bundle=str(bundle), fields=fields, options={"steps": 1}))
        report = job.run(place, Loading(str(bundle), backend=SlowBackend()), job.Running(actors=2))
        started = time.perf_counter()
        there, _ = job.files_there(place, planned.plan)
        seconds = time.perf_counter() - started
    assert len(there) == count
    return {"files": count, "files per second": report.per_second, "ms of a file on resuming": 1e3 * seconds / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("scaling", "overhead", "memory", "embed", "sizes", "driver"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--address", default="local")
    parser.add_argument("--processes", action="store_true", help="memory: in place of Ray")
    parser.add_argument("--json", type=Path, default=HOUSE / "bench/results/batch/figures.json")
    asked = parser.parse_args()
    name = asked.piece
    if name == "scaling":
        found = scaling(asked.address, asked.count or 160)
    elif name == "overhead":
        found = overhead(asked.address, asked.count or 500)
    elif name == "memory":
        found = memory(None if asked.processes else asked.address, asked.count or 100_000)
        name += ", processes" if asked.processes else ", ray"
    else:
        found = {"embed": embed, "sizes": sizes, "driver": driver}[name](asked.count or 500)
    found["machine"] = machine()
    print(json.dumps(found, indent=2))
    kept = json.loads(asked.json.read_text("utf-8")) if asked.json.exists() else {}
    kept[name if asked.address != "auto" else f"{name}, cluster"] = found
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    asked.json.parent.with_suffix(".md").write_text(page(kept), "utf-8")


if __name__ == "__main__":
    main()
