"""``smalti serve`` under load, and left alone: ``python bench/speed/serving.py [--seconds 60] [--clients 64]``.

Clients ask as fast as they are answered; who is refused comes again when the answer says. Every picture is compared
with the library's for its seed. Then clients ask for long draws and leave, with plain requests and with streams, and it
is measured when the work stops. The server runs on this machine, and so do its clients.

It prints a table and writes ``bench/results/serving/load.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from PIL import Image

import smalti

RESULTS = Path(__file__).parents[1] / "results/serving/load.json"
SEEDS = 64
"""Seeds that are asked for."""
LONG_STEPS = 256


@dataclass
class Seen:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    answered: list[float] = field(default_factory=list[float])
    refused: list[float] = field(default_factory=list[float])
    pictures: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    megabytes: list[float] = field(default_factory=list[float])


@contextmanager
def served(*arguments: object) -> Iterator[tuple[psutil.Process, str]]:
    """Start ``smalti serve`` on a free port; inside, it is ready."""
    line = [sys.executable, "-m", "smalti.cli", "serve", "--port", "0", "--provider", "cpu", *map(str, arguments)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        found = re.search(r"http://[^/]+", process.stdout.readline())
        if found is None:
            raise SystemExit("smalti serve did not start; its message is above")
        while httpx.get(f"{found[0]}/health/ready", trust_env=False).status_code != 200:
            time.sleep(0.1)
        yield psutil.Process(process.pid), found[0]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def loaded(url: str, clients: int, seconds: float, steps: int, process: psutil.Process) -> Seen:
    """Let clients ask for some seconds, and note what they see."""
    seen, until = Seen(), time.perf_counter() + seconds

    async def one(index: int, client: httpx.AsyncClient) -> None:
        turn = index
        await asyncio.sleep(index / clients)  # they come within a second, and not all at once
        while time.perf_counter() < until:
            seed, asked = turn % SEEDS, time.perf_counter()
            answer = await client.post("/api/generate", json={"seed": seed, "steps": steps, "user": f"user {index}"})
            took = time.perf_counter() - asked
            seen.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                seen.answered.append(took)
                file = base64.b64decode(answer.json()["pictures"][0]["data"])
                seen.pictures.setdefault(seed, set()).add(digest(Image.open(io.BytesIO(file))))
                turn += clients
            else:
                seen.refused.append(took)
                await asyncio.sleep(float(answer.headers["Retry-After"]) * (1 + index % 8 / 32))  # not all at once

    async def weigh() -> None:
        while True:
            seen.megabytes.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as client:
        weighing = asyncio.ensure_future(weigh())
        await asyncio.gather(*(one(index, client) for index in range(clients)))
        weighing.cancel()
    seen.megabytes.append(process.memory_info().rss / 2**20)
    return seen


async def taken(client: httpx.AsyncClient) -> float:
    """How many places are taken."""
    text = (await client.get("/metrics")).text
    return float(re.findall(r"^smalti_places_taken (\S+)", text, re.MULTILINE)[0])


async def left(url: str, clients: int) -> dict[str, Any]:
    """Let clients leave while they are drawn for, one after the other; seconds until nothing is done for them."""
    stopped: dict[str, list[float]] = {"plain": [], "stream": []}
    body = {"steps": LONG_STEPS}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
        started = time.perf_counter()
        (await client.post("/api/generate", json={**body, "seed": 1})).raise_for_status()
        whole = time.perf_counter() - started
        for index in range(clients):
            kind = "stream" if index % 2 else "plain"
            path = "/api/generate/stream" if kind == "stream" else "/api/generate"
            asked = asyncio.ensure_future(_ask_and_wait(url, path, {**body, "seed": index}))
            while not await taken(client):
                await asyncio.sleep(0.002)
            await asyncio.sleep(min(0.1, whole / 8) + index % 5 * 0.01)
            asked.cancel()
            gone = time.perf_counter()
            while await taken(client):
                await asyncio.sleep(0.001)
            stopped[kind].append(time.perf_counter() - gone)
    return {
        "clients": clients,
        "seconds_of_a_whole_draw": round(whole, 3),
        "milliseconds_of_a_step": round(1000 * whole / LONG_STEPS, 2),
        **{
            f"{kind}_milliseconds": {"median": round(1000 * median(found), 1), "most": round(1000 * max(found), 1)}
            for kind, found in stopped.items()
            if found
        },
    }


async def _ask_and_wait(url: str, path: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
        await client.post(path, json=body)


def measured(
    bundle: str | None, clients: int, seconds: float, steps: int, leaving: int, threads: int
) -> dict[str, Any]:
    """Measure a server of its own with these many clients."""
    named = ("--bundle", bundle) if bundle else ()
    with served(*named, "--threads", threads) as (process, url):
        asyncio.run(loaded(url, min(clients, 8), min(3.0, seconds / 4), steps, process))  # what is made once is made
        seen = asyncio.run(loaded(url, clients, seconds, steps, process))
        gone = asyncio.run(left(url, leaving))
    gen = smalti.load(bundle, "cpu", threads=threads)
    wrong = [
        seed
        for seed, found in seen.pictures.items()
        if found != {digest(gen.generate(seed=seed, steps=steps).images[0])}
    ]
    return {
        "machine": {"processor": platform.machine(), "cores": len(psutil.Process().cpu_affinity()), "threads": threads},
        "bundle": gen.manifest.name,
        "clients": clients,
        "seconds": seconds,
        "steps": steps,
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "pictures_a_second": round(len(seen.answered) / seconds, 2),
        "answered_seconds": {
            "median": round(quantile(seen.answered, 0.5), 3),
            "p95": round(quantile(seen.answered, 0.95), 3),
        },
        "refused_seconds": {
            "median": round(quantile(seen.refused, 0.5), 4),
            "p95": round(quantile(seen.refused, 0.95), 4),
        },
        "megabytes": {
            "first": round(seen.megabytes[0]),
            "most": round(max(seen.megabytes)),
            "last": round(seen.megabytes[-1]),
        },
        "seeds_compared": len(seen.pictures),
        "seeds_that_differ": wrong,
        "left": gone,
    }


def table(found: dict[str, Any]) -> str:
    """Return the figures as a table of Markdown."""
    gone = found["left"]
    differ = f"{found['seeds_compared']}, {len(found['seeds_that_differ'])}"
    rows = {
        "clients, seconds": f"{found['clients']}, {found['seconds']:g}",
        "answers by status": ", ".join(f"{status}: {count}" for status, count in found["statuses"].items()),
        "pictures a second": found["pictures_a_second"],
        "seconds of an answer, median and p95": "{median} and {p95}".format(**found["answered_seconds"]),
        "seconds of a refusal, median and p95": "{median} and {p95}".format(**found["refused_seconds"]),
        "memory, MB: first, most, last": "{first}, {most}, {last}".format(**found["megabytes"]),
        "seeds compared with the library, and those that differ": differ,
        f"a step of a draw of {LONG_STEPS}, ms": gone["milliseconds_of_a_step"],
    }
    for kind in ("plain", "stream"):
        what = f"{gone['clients'] // 2} clients leave ({kind}): work stops after, ms, median and most"
        rows[what] = "{median} and {most}".format(**gone[f"{kind}_milliseconds"])
    return "\n".join(("| what | figure |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--leaving", type=int, default=100, help="clients that leave")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measured(options.bundle, options.clients, options.seconds, options.steps, options.leaving, options.threads)
    print(table(found))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
