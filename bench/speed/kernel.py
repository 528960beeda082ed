"""The draw, timed: NumPy against torch on the CPU; with a CUDA device, Triton and the prebuilt kernel against torch.

    python bench/speed/kernel.py                      1024 rows x 8192 tokens; the device part runs if there is one
    python bench/speed/kernel.py --rows 256 --threads 1 --rounds 5

Everything that is compared runs in one process, in turns (a, b, c, a, b, c, ...), on random logits (sd 3, temperature
0.9); times are medians. torch draws with softmax, multinomial and where, as samplers are usually written. Device times
are taken with a cold cache, beside two floors measured there: reading the logits once, and the mixer's arithmetic. Each
device kernel first has to draw the reference's tokens. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from smalti_kernels import sample

TEMPERATURE = 0.9


def timed(routes: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each route; they take turns, so that whatever else the machine does hits all alike."""
    for route in routes.values():
        route()
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        for name, route in routes.items():
            start = time.perf_counter()
            route()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title: str, seconds: dict[str, float], base: str) -> None:
    unit, factor = ("ms", 1e3) if max(seconds.values()) > 1e-3 else ("us", 1e6)
    print(f"\n### {title}\n\n| route | median {unit} | times as fast as {base} |\n|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value * factor:.2f} | {seconds[base] / value:.2f} |")


def arguments(rows: int, vocabulary: int) -> dict[str, Any]:
    """A draw of every position of as many grids of 256 tokens as the rows fill."""
    count = -(-rows // 256)
    return {
        "tokens": np.zeros((count, 256), np.int32),
        "sample": np.arange(rows) // 256,
        "position": np.arange(rows) % 256,
        "seeds": np.arange(count),
        "step": 3,
        "width": 16,
        "temperature": TEMPERATURE,
    }


def on_cpu(rows: int, vocabulary: int, threads: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, vocabulary), dtype=np.float32) * np.float32(3)
    half = logits.astype(np.float16)
    place = arguments(rows, vocabulary)

    def naive() -> object:
        """Gumbel-max as one would write it, on whole arrays, in float32."""
        noise = -np.log(-np.log(rng.random(logits.shape, dtype=np.float32) + np.float32(1e-30)))
        return (logits / np.float32(TEMPERATURE) + noise).argmax(axis=1)

    routes: dict[str, Callable[[], object]] = {
        "smalti float32": lambda: sample(logits, **place, threads=threads),
        "smalti float16": lambda: sample(half, **place, threads=threads),
        "smalti float32, top-p and log-probability": lambda: sample(
            logits, **place, threads=threads, top_p=0.9, logprob=True
        ),
        "NumPy, naive (one thread)": naive,
    }
    base = "NumPy, naive (one thread)"
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        print("torch is not installed: compared with NumPy only")
    else:
        torch.set_num_threads(threads)
        tensors = {"float32": torch.from_numpy(logits), "float16": torch.from_numpy(half)}
        grid = torch.zeros(rows, dtype=torch.int64)
        chosen = torch.rand(rows) < 0.5

        def draw(given: Any) -> object:
            probabilities = torch.softmax(given.float() / TEMPERATURE, dim=-1)
            return torch.where(chosen, torch.multinomial(probabilities, 1)[:, 0], grid)

        for name, tensor in tensors.items():
            routes[f"torch {name}"] = lambda tensor=tensor: draw(tensor)
        base = "torch float32"
    seconds = timed(routes, rounds)
    table(f"CPU, {rows} x {vocabulary}, threads: {threads}", seconds, base)


class Device:
    """Times routes on the current CUDA device, each with a cold cache."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        # Larger than any device's L2 cache; writing it evicts the logits.
        self.other = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")

    def timed(self, routes: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """Median seconds between two events around each route; the routes take turns."""
        torch = self.torch
        for route in routes.values():
            for _ in range(3):
                route()
        torch.cuda.synchronize()
        events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in routes}
        for _ in range(rounds):
            for name, route in routes.items():
                self.other.zero_()
                pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                pair[0].record()
                route()
                pair[1].record()
                events[name].append(pair)
        torch.cuda.synchronize()
        return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) / 1e3 for name, pairs in events.items()}


def floors(torch: Any, logits: Any) -> dict[str, Callable[[], object]]:
    """What no draw can beat on this device: reading the logits once, and mixing one noise word for every token."""
    kernels = importlib.import_module("kernel_floors")
    rows, vocabulary = logits.shape
    out = torch.empty(rows, dtype=torch.float32, device="cuda")
    block = 2048

    def read() -> None:
        kernels.read[(rows,)](logits, out, vocabulary, BLOCK=block, num_warps=4)

    def mixed() -> None:
        kernels.mix[(rows,)](out, vocabulary, BLOCK=block, num_warps=4)

    return {"floor: read the logits": read, "floor: mix the noise": mixed}


def on_device(rows: int, vocabulary: int, rounds: int) -> None:
    torch = importlib.import_module("torch")
    device = Device(torch)
    rng = np.random.default_rng(0)
    host = (rng.standard_normal((rows, vocabulary), dtype=np.float32) * np.float32(3)).astype(np.float16)
    logits = torch.from_numpy(host).cuda()
    place = arguments(rows, vocabulary)
    expected = sample(host, **place).tokens
    grid = torch.zeros(rows, dtype=torch.int64, device="cuda")
    chosen = torch.rand(rows, device="cuda") < 0.5

    def eager() -> object:
        probabilities = torch.softmax(logits.float() / TEMPERATURE, dim=-1)
        return torch.where(chosen, torch.multinomial(probabilities, 1)[:, 0], grid)

    routes: dict[str, Callable[[], object]] = {"torch, eager": eager, "torch.compile": torch.compile(eager)}
    routes |= launches(torch, host, logits, place, expected)
    routes |= floors(torch, logits)
    seconds = device.timed(routes, rounds)
    table(f"{torch.cuda.get_device_name()}, {rows} x {vocabulary} float16, cold cache", seconds, "torch, eager")
    floor = max(value for name, value in seconds.items() if name.startswith("floor"))
    for name, value in seconds.items():
        if name.startswith("smalti"):
            print(f"\n{name}: {floor / value:.0%} of the greater floor")


def launches(
    torch: Any, host: Any, logits: Any, place: dict[str, Any], expected: Any
) -> dict[str, Callable[[], object]]:
    """Launches of the Triton kernel and of the prebuilt one on arrays that lie on the device already.

    Before it is timed each draws once, and its tokens must be the reference's.
    """
    from smalti_kernels.checks import as_request
    from smalti_kernels.errors import KernelError
    from smalti_kernels.impl import abi
    from smalti_kernels.impl.cuda.draw import host_arrays
    from smalti_kernels.impl.cuda.launch import Pointers, Shape, load_kernels
    from smalti_kernels.spec.tables import packed_tables

    defaults = {"uncond": None, "guidance": 1.0, "top_k": 0, "top_p": 1.0, "logprob": False, "threads": 1}
    arrays, _, flags = host_arrays(as_request(host, **place, **defaults))
    rows, vocabulary = host.shape
    length = place["tokens"].shape[1]
    on_gpu = {name: torch.from_numpy(array.copy()).cuda() for name, array in arrays.items()}
    on_gpu["logits"] = logits
    shape = Shape("fp16", rows, vocabulary, vocabulary, length, place["width"])
    tables = torch.from_numpy(packed_tables().copy()).cuda()
    variant = abi.variant_for("fp16", vocabulary, flags)
    routes: dict[str, Callable[[], object]] = {}

    def add(name: str, route: Callable[[], object]) -> None:
        on_gpu["tokens"].zero_()
        route()
        torch.cuda.synchronize()
        if not np.array_equal(on_gpu["tokens"].cpu().numpy(), expected) or bool(on_gpu["errors"].any()):
            sys.exit(f"{name}: the tokens are not the reference's")
        routes[name] = route

    try:
        kernel = importlib.import_module("smalti_kernels.impl.triton.kernel").smalti_sample
        programs = abi.programs_for(rows, variant, torch.cuda.get_device_properties(0).multi_processor_count)
        values = {
            # What the flags leave unread gets any address of the right type.
            **{a.name: on_gpu.get(a.name, on_gpu["errors"]) for a in abi.ARGUMENTS if a.type.startswith("*")},
            "uncond": logits,
            "tables": tables,
            "guidance": 1.0,
            "rows": rows,
            "vocabulary": vocabulary,
            "stride": vocabulary,
            "length": length,
            "width": place["width"],
            "flags": flags,
        }
        options = {**variant.constants, "num_warps": variant.num_warps, **abi.COMPILE_OPTIONS}
        add("smalti, Triton", lambda: kernel[(programs,)](**values, **options))
    except ImportError as error:
        print(f"Triton: {error}")
    try:
        prebuilt = load_kernels()
        pointers = Pointers(**{name: tensor.data_ptr() for name, tensor in on_gpu.items()})
        add(
            "smalti, prebuilt",
            lambda: prebuilt.draw(pointers, shape, flags=flags, stream=torch.cuda.current_stream().cuda_stream),
        )
    except KernelError as error:
        print(f"prebuilt kernel: {error}")
    return routes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1, help="threads of every CPU route (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="times each route is timed (default 9)")
    parser.add_argument("--device", choices=["all", "cpu", "cuda"], default="all")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}", end="")
    has_cuda = False
    try:
        torch = importlib.import_module("torch")
        has_cuda = bool(torch.cuda.is_available())
        print(f", torch {torch.__version__}", end="")
    except ImportError:
        pass
    print()
    if options.device != "cuda":
        on_cpu(options.rows, options.vocabulary, options.threads, options.rounds)
    if options.device != "cpu":
        if has_cuda:
            on_device(options.rows, options.vocabulary, options.rounds * 5)
        elif options.device == "cuda":
            sys.exit("no CUDA device, or torch without CUDA")


if __name__ == "__main__":
    main()
