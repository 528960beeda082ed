"""Seconds per megapixel of the embedded bundle on a device: the first picture, then steady runs of several sizes."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np

import smalti
from gpu.loop import SEED, attempt, program_of, resolutions
from gpu.machine import Machine
from gpu.report import Report
from gpu.sessions import Free
from smalti.backends.device.arena import Arena
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.ladder import Ladder
from smalti.backends.device.loop import DeviceRun
from smalti.verification.speed.measure import measure as measure_runs
from smalti.verification.speed.report import measured_values


def measure(report: Report, machine: Machine) -> None:
    """Time each precision, with and without CUDA graphs."""
    for precision, graphs in itertools.product(machine.sizes.precisions, (False, True)):
        name = f"{precision}{', CUDA graphs' if graphs else ''}"
        if machine.left < 20:
            report.skip(name, "no time was left")
            continue
        attempt(report, name, one_way, report, machine, precision, graphs, name)


def one_way(report: Report, machine: Machine, precision: Any, graphs: bool, name: str) -> None:
    """The first picture, every batch and resolution, and what of it the network is not."""
    started = time.perf_counter()
    gen = smalti.load(precision=precision, backend=machine.backend(graphs=graphs))
    loaded = time.perf_counter()
    gen.generate(1, SEED, steps=machine.sizes.steps)
    first = time.perf_counter()
    note = f"of it {loaded - started:.3g} s to load; libraries were imported before"
    report.add(f"{name}: first picture, from nothing", first - started, "s", 1, note=note)
    for pixels, batch in itertools.product(resolutions(gen, machine), machine.sizes.batches):
        if machine.left < 10:
            report.skip(f"{name}: {batch} of {pixels} pixels", "no time was left")
            continue
        attempt(report, f"{name}: {batch} of {pixels} pixels", steady, report, machine, gen, batch, pixels, name)
    if not graphs:
        attempt(report, f"{name}: without the network", without_network, report, machine, gen, name)


def steady(report: Report, machine: Machine, gen: smalti.Generator, batch: int, pixels: int, name: str) -> None:
    """Median seconds for each megapixel, after an untimed run."""
    measured = measure_runs(gen, batch, machine.sizes.steps, machine.sizes.repeats, pixels)
    found = {**measured_values(measured), "provider": dict(measured.provider)}
    rates = found["seconds_per_megapixel"]
    parts = f"network and draw {rates['network']:.3g}, decoder {rates['decoder']:.3g}, host {rates['host']:.3g}"
    note = f"{parts}; {found['steps']} steps, {found['seconds']['total'] / batch:.3g} s a picture"
    report.found[f"{name}, {batch} of {pixels}"] = found
    report.add(
        f"{name}: batch {batch}, {found['width']} x {found['height']}",
        rates["total"],
        "s/megapixel",
        machine.sizes.repeats,
        note=note,
    )


def without_network(report: Report, machine: Machine, gen: smalti.Generator, name: str) -> None:
    """The loop with a network that costs nothing: tables, moves, draws and notes, from the first upload to tokens."""
    assert isinstance(gen.backend, DeviceBackend)
    program, device = program_of(gen, machine), gen.backend.place
    network = gen.backend.bound(gen.session("denoiser"))
    ladder = Ladder(program.steps, known=True, window=program.start.shape[1])
    most = max(call.rows.size for step in program.steps for call in ladder.fitted(step).calls)
    logits = (np.random.default_rng(0).standard_normal((most, program.codes), np.float32) * 3).astype(np.float32)
    seconds: list[float] = []
    with Arena(device, {"logits": (logits.shape, "float32")}) as arena:
        device.upload(arena["logits"], logits)
        device.wait()
        free = Free(device, network, arena["logits"])
        for _ in range(machine.sizes.repeats + 1):
            started = time.perf_counter()
            with DeviceRun(device, program, free, gen.manifest.latent.grid) as run:
                steps = sum(1 for _ in run.steps())
                run.result()
            seconds.append(time.perf_counter() - started)
    count = len(seconds) - 1
    median = statistics.median(seconds[1:])
    note = f"batch {machine.sizes.count}, {steps} steps; {median / steps * 1e3:.3g} ms a step"
    report.add(f"{name}: a run without its network (moves, draws, host)", median, "s", count, note=note)
