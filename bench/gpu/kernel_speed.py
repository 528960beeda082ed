"""Seconds of the draw's kernels on the device's own clock, beside torch's draw and what no draw there can beat.

All that is compared runs in one process and takes turns. Each route queues its calls behind copies that keep the device
busy, so that the host is ahead and only the device's time counts; where a route waits for the device itself, as
torch.multinomial does, that counts too. Each call reads other logits than the one before, and all of them together are
larger than any cache.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu.cases import Cases
from gpu.machine import Machine
from gpu.report import Report
from gpu.torch_routes import torch_routes
from smalti_kernels.checks import Request, as_request
from smalti_kernels.errors import KernelError
from smalti_kernels.impl import abi, reference
from smalti_kernels.impl.cuda.draw import host_arrays
from smalti_kernels.impl.cuda.driver import Driver
from smalti_kernels.impl.cuda.launch import Kernels, Pointers, Shape

TEMPERATURE = 0.9
LEAST_SHARE, LEAST_TIMES = 0.6, 8
"""Targets: the share of the greater floor, and how many times as fast as torch."""
MOST_BALLAST = 256
Route = Callable[[int], object]
"""Queues one call on the default stream, on the logits of that number."""


class Timer:
    """Times routes with events of the driver."""

    def __init__(self, driver: Driver, stack: contextlib.ExitStack, size: int) -> None:
        """Allocate two areas of `size` bytes, which copies between them keep the device busy with."""
        self._driver, self._size = driver, size
        self._areas = [stack.enter_context(driver.allocated(size)) for _ in range(2)]
        self._events = [driver.create_event() for _ in range(2)]
        for event in self._events:
            stack.callback(driver.destroy_event, event)
        self.copy_seconds = self._copied(8) / 8

    def _copied(self, times: int) -> float:
        self.occupy(times)
        return self._between(lambda: self.occupy(times))

    def occupy(self, times: int) -> None:
        """Queue copies."""
        for _ in range(times):
            self._driver.copy(self._areas[1], self._areas[0], self._size, 0)

    def bandwidth(self, rounds: int) -> float:
        """Bytes that copies read and write in a second: the median of some rounds."""
        return 2 * self._size / statistics.median(self._copied(8) / 8 for _ in range(rounds))

    def _between(self, queue: Callable[[], object]) -> float:
        start, end = self._events
        self._driver.record(start, 0)
        queue()
        self._driver.record(end, 0)
        return self._driver.elapsed(start, end)

    def timed(self, routes: dict[str, Route], rounds: int, calls: int) -> dict[str, list[float]]:
        """Seconds of a call of each route, in each round."""
        ahead: dict[str, int] = {}
        for name, route in routes.items():
            route(0)
            self._driver.synchronize(0)
            started = time.perf_counter()
            for index in range(calls):
                route(index)
            host = time.perf_counter() - started
            self._driver.synchronize(0)
            ahead[name] = min(MOST_BALLAST, 1 + math.ceil(1.5 * host / self.copy_seconds))
        seconds: dict[str, list[float]] = {name: [] for name in routes}
        for _ in range(rounds):
            for name, route in routes.items():
                self.occupy(ahead[name])
                seconds[name].append(self._between(lambda route=route: [route(i) for i in range(calls)]) / calls)
        return seconds


class Timed(NamedTuple):
    """A draw of random logits, ready to be queued."""

    request: Request
    """With the logits of number 0."""
    logits: list[NDArray[Any]]
    shape: Shape
    flags: int
    addresses: list[int]
    """Of the logits on the device."""
    pointers: Pointers


def measure(report: Report, machine: Machine) -> None:
    """Time the draw with random logits of several shapes; the first one also beside torch, with the targets."""
    driver, sizes = machine.kernels.driver, machine.sizes
    rows, vocabulary = sizes.timed
    shapes = [
        ("fp16", rows, vocabulary, {}),
        ("fp32", rows, vocabulary, {}),
        ("bf16", rows, vocabulary, {}),
        ("fp16", rows, vocabulary, {"top_p": 0.9}),
        ("fp32", max(rows // 16, 1), vocabulary, {"logprob": True}),
        ("fp16", rows, max(vocabulary // 8, 16), {}),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(driver.entered(machine.kernels.context))
        timer = Timer(driver, stack, sizes.ballast)
        bandwidth = timer.bandwidth(5)
        report.add("copy from device to device", bandwidth / 1e9, "GB/s read and written", 5, note="median of 5 x 8")
        for index, (kind, of_rows, tokens, options) in enumerate(shapes):
            if machine.left < 10:
                report.skip(f"{kind}, {of_rows} x {tokens}", "no time was left")
                continue
            with contextlib.ExitStack() as inner:
                cases = Cases(max(sizes.pool, 2 * tokens), index)
                timed = ready(machine.kernels, inner, cases, (kind, of_rows, tokens), options, sizes.buffers)
                if not right(report, machine.kernels, timed):
                    continue
                routes = {"smalti, prebuilt": prebuilt(machine.kernels, timed)}
                if index == 0:
                    routes |= torch_routes(report, machine, timed)
                one_shape(report, machine, timer, timed, routes, bandwidth, targets=index == 0)


def ready(
    kernels: Kernels,
    stack: contextlib.ExitStack,
    cases: Cases,
    of: tuple[str, int, int],
    options: dict[str, Any],
    buffers: int,
) -> Timed:
    """Put a draw of every position of some grids of 256 tokens on the device."""
    kind, rows, vocabulary = of
    logits = [cases.logits(kind, rows, vocabulary, all_finite=True) for _ in range(buffers)]
    count = -(-rows // 256)
    request = as_request(
        np.broadcast_to(np.float32(0), logits[0].shape),
        np.full((count, 256), -1, np.int32),
        sample=np.arange(rows) // 256,
        position=np.arange(rows) % 256,
        seeds=np.arange(count),
        step=3,
        width=16,
        temperature=TEMPERATURE,
        **{"uncond": None, "guidance": 1.0, "top_k": 0, "top_p": 1.0, "logprob": False, "threads": None, **options},
    )
    request = request._replace(logits=logits[0], kind=kind)
    arrays, shape, flags = host_arrays(request)

    def uploaded(array: NDArray[Any]) -> int:
        address = stack.enter_context(kernels.driver.allocated(array.nbytes))
        kernels.driver.upload(address, array.ctypes.data, array.nbytes, 0)
        kernels.driver.synchronize(0)
        return address

    addresses = [uploaded(host_arrays(request._replace(logits=one))[0]["logits"]) for one in logits]
    others = {name: uploaded(array) for name, array in arrays.items() if name != "logits"}
    return Timed(request, logits, shape, flags, addresses, Pointers(logits=addresses[0], **others))


def prebuilt(kernels: Kernels, timed: Timed) -> Route:
    """The prebuilt kernel."""
    return lambda index: kernels.draw(
        timed.pointers._replace(logits=timed.addresses[index]), timed.shape, flags=timed.flags
    )


def right(report: Report, kernels: Kernels, timed: Timed) -> bool:
    """Whether the kernel draws the reference's tokens, without which its speed is of no interest."""
    what = f"{timed.shape.logits}, {timed.shape.rows} x {timed.shape.vocabulary}"
    try:
        prebuilt(kernels, timed)(0)
        tokens = np.empty(timed.request.tokens.shape, np.int32)
        kernels.driver.download(tokens.ctypes.data, timed.pointers.tokens, tokens.nbytes, 0)
        kernels.driver.synchronize(0)
    except KernelError as error:
        report.fail(what, str(error))
        return False
    wrong = int((tokens != reference.draw(timed.request).tokens).sum())
    if wrong:
        report.compared(what, wrong, timed.shape.rows)
    return not wrong


def one_shape(
    report: Report,
    machine: Machine,
    timer: Timer,
    timed: Timed,
    routes: dict[str, Route],
    bandwidth: float,
    *,
    targets: bool,
) -> None:
    """Time the routes of one shape, and say what share of the floors they reach."""
    rows, vocabulary = timed.shape.rows, timed.shape.vocabulary
    calls, rounds = machine.sizes.buffers, machine.sizes.rounds
    what = f"{rows} x {vocabulary} {timed.shape.logits}{', top-p' if timed.flags & abi.FLAG_TRUNCATED else ''}"
    found = timer.timed(routes, rounds, calls)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    memory = rows * vocabulary * timed.logits[0].itemsize / bandwidth
    for name, seconds in found.items():
        spread = f"{min(seconds) * 1e6:.4g} to {max(seconds) * 1e6:.4g} us; random logits, cold"
        report.add(f"{what}: {name}", medians[name] * 1e6, "us a draw, median", rounds * calls, note=spread)
    report.add(f"{what}: memory floor", memory * 1e6, "us", 5, note="bytes of logits at the copy's rate")
    floors = {"memory": memory, **{name: value for name, value in medians.items() if name.startswith("floor")}}
    greater = max(floors, key=lambda name: floors[name])
    share = floors[greater] / medians["smalti, prebuilt"]
    verdict = ("met" if share >= LEAST_SHARE else "not met") if targets and machine.kind == "gpu" else ""
    only = "" if len(floors) > 1 else "; the issue floor is not known"
    note = f"greater floor: {greater}{only}; target: at least {LEAST_SHARE:.0%}" if targets else f"of: {greater}{only}"
    report.add(f"{what}: share of the greater floor", 100 * share, "%", rounds * calls, verdict, note)
    if "torch, eager" in medians:
        times = medians["torch, eager"] / medians["smalti, prebuilt"]
        verdict = ("met" if times >= LEAST_TIMES else "not met") if machine.kind == "gpu" else ""
        report.add(
            f"{what}: times as fast as eager torch", times, "times", rounds * calls, verdict, f"target: {LEAST_TIMES}"
        )
    elif targets:
        report.skip("times as fast as eager torch", "torch is not here, or sees no GPU")
