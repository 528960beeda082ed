"""Many requests of all kinds at once and one after another: the same answers, and no memory that is not given back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smalti
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from helpers.table_predictor import autoregressive_bundle

THREADS, REQUESTS = 8, 50
LABELS = ("a", "b")
Request = tuple[str, str, int, dict[str, Any]]
"""Family, call, seed, options."""


@pytest.fixture(scope="module")
def bundles(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("together")
    autoregressive_bundle(tiny_bundle, folder / "autoregressive")
    return {
        "absorbing": tiny_bundle,
        "sundae": TableDenoiser((3, 4), 6, 2).bundle(folder / "sundae", classes=LABELS),
        "multinomial": TimedTableDenoiser((3, 4), 6, 2, 30).bundle(folder / "multinomial", classes=LABELS, steps=5),
        "autoregressive": folder / "autoregressive",
    }


def loaded(bundles: dict[str, Path]) -> dict[str, smalti.Generator]:
    return {family: smalti.load(path, "cpu", threads=1) for family, path in bundles.items()}


def request(number: int) -> Request:
    """A request that depends on its number alone."""
    rng = np.random.default_rng(number)
    family = str(rng.choice(["absorbing"] * 5 + ["sundae", "multinomial", "autoregressive"]))
    calls = ["generate", "generate", "stream", "inpaint", "stream_inpaint", "vary", "encode", "decode"]
    call = str(rng.choice([*calls, "embed"] if family == "absorbing" else calls))
    options: dict[str, Any] = {"count": int(rng.integers(1, 4)), "temperature": float(rng.choice([0.7, 1.0, 1.3]))}
    if family in ("absorbing", "sundae"):
        options["steps"] = int(rng.integers(1, 5))
    if family != "autoregressive":
        options["guidance"] = float(rng.choice([0.0, 0.0, 1.5]))
    if family == "absorbing":
        options["schedule"] = str(rng.choice(["exact", "cosine", "binomial"]))
        if call in ("generate", "stream"):
            options["size"] = (64, 16 * int(rng.integers(2, 7)))
    if call != "vary" and rng.random() < 0.5:
        options["label"] = int(rng.integers(2))
    return family, call, int(rng.integers(2**63)), options


def shown(found: smalti.Result | smalti.Step) -> tuple[Any, ...]:
    images = found.images() if isinstance(found, smalti.Step) else found.images
    return (found.tokens.tolist(), *(image.tobytes() for image in images))


def answer(gens: dict[str, smalti.Generator], asked: Request) -> Any:
    """What a request gives, in values that can be compared."""
    family, call, seed, options = asked
    gen = gens[family]
    height, width = (side * gen.manifest.latent.factor for side in gen.manifest.latent.grid)
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.bool_)
    mask[:, : int(rng.integers(1, width))] = True
    match call:
        case "generate":
            return shown(gen.generate(seed=seed, **options))
        case "stream":
            return [shown(step) for step in gen.stream(seed=seed, **options)]
        case "inpaint":
            return shown(gen.inpaint(picture, mask, seed=seed, feather=int(rng.integers(3)), **options))
        case "stream_inpaint":
            return [shown(step) for step in gen.stream_inpaint(picture, mask, seed=seed, **options)]
        case "vary":
            return shown(gen.vary(picture, seed=seed, strength=float(rng.uniform(0.1, 1)), **options))
        case "encode":
            return gen.encode([picture, picture[::-1]]).tolist()
        case "decode":
            tokens = rng.integers(0, gen.manifest.latent.codes, (2, *rng.integers(1, 7, 2)))
            return [image.tobytes() for image in gen.decode(tokens)]
        case _:
            return gen.embed([picture]).tobytes()


def test_cases_of_many_threads_get_what_one_gets(bundles: dict[str, Path]) -> None:
    asked = [request(number) for number in range(THREADS * REQUESTS)]
    assert {call for _, call, _, _ in asked} >= {"generate", "inpaint", "vary", "encode", "decode", "embed", "stream"}
    one_by_one = loaded(bundles)
    twins = [answer(one_by_one, one) for one in asked]
    shared, begin = loaded(bundles), threading.Barrier(THREADS)  # so that components open while others are asked for

    def serve(thread: int) -> list[Any]:
        begin.wait(60)
        return [answer(shared, one) for one in asked[thread * REQUESTS : (thread + 1) * REQUESTS]]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [one for part in pool.map(serve, range(THREADS)) for one in part]
    assert [asked[index] for index, twin in enumerate(twins) if found[index] != twin] == []


GROWTH = """
import gc, resource, sys
import smalti

def memory():
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

gen = smalti.load(sys.argv[1], "cpu", threads=1)

def draw(numbers):
    for number in numbers:
        options = {"steps": 1 + number % 2, "size": (64, 48 + 16 * (number % 3))}
        assert gen.generate(1 + number % 2, number, **options).images

draw(range(100))
before = memory()
draw(range(100, 1100))
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process")
def test_cases_of_a_thousand_generations_keep_no_memory(
    tiny_bundle: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = python(GROWTH, tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20e6
