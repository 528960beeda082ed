"""The device loop with the embedded bundle: its tokens and pixels beside those of the CPU, and its draws exactly."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import smalti
from gpu.machine import Machine
from gpu.report import Report
from gpu.sessions import HostNetwork, Recorded
from smalti import ProviderUnavailable
from smalti.backends.device.arena import Device
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.loop import DeviceRun
from smalti.backends.device.plan import Program
from smalti.backends.device.tensors import DeviceSession
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.reader import Bundle
from smalti.families.registry import family_of
from smalti.families.settings import resolve
from smalti_kernels import sample
from smalti_kernels.platform import usable_cores

SEED = 11
LEAST_PSNR = 40.0
"""Decibels between pixels of one decoder on two providers, below which something is wrong."""
LEAST_AGREEMENT = 95.0
"""Percent of tokens that agree when each provider draws once from its own logits of the same grids."""


def attempt(report: Report, part: str, run: Callable[..., object], *arguments: Any) -> Any:
    """Run a part; note why it cannot run, or what broke."""
    try:
        return run(*arguments)
    except ProviderUnavailable as error:
        report.skip(part, str(error))
    except Exception as error:  # whatever it is, the other parts are to run
        report.found.setdefault("traces", {})[part] = traceback.format_exc()[-3000:]
        report.fail(part, f"{type(error).__name__}: {str(error)[:500]}")
    return None


def check(report: Report, machine: Machine) -> None:
    """Compare with the CPU; the kernels in the loop are checked even where ONNX Runtime has no CUDA."""
    bundle = smalti.open_bundle()
    threads = usable_cores() if machine.kind == "gpu" else 1
    cpu = smalti.load(bundle, "cpu", "fp32", threads)
    attempt(report, "network on the host", network_on_the_host, report, machine, bundle, cpu)
    for precision in machine.sizes.precisions[::-1]:
        attempt(report, f"provider cuda, {precision}", on_provider, report, machine, bundle, cpu, precision)


def program_of(gen: smalti.Generator, machine: Machine, **options: Any) -> Program:
    """The tables of a plain run."""
    sizes = machine.sizes
    settings = resolve(gen.manifest, sizes.count, SEED, {"steps": sizes.steps, **options})
    height, width = gen.manifest.latent.grid
    start = np.full((sizes.count, height, width), gen.manifest.latent.codes, np.int32)
    run = family_of(gen.manifest).lay_out(start, settings, gen.manifest)
    assert run.program is not None
    return run.program()


def network_on_the_host(report: Report, machine: Machine, bundle: Bundle, cpu: smalti.Generator) -> None:
    """Moves, draws and notes on the device, the network on the CPU."""
    session = OnnxRuntimeCpu(cpu.report.threads).open(bundle, "denoiser", "fp32")
    device = Device(machine.kernels)
    tokens = exact(report, machine, cpu, device, HostNetwork(device, session), "network on the host")
    expected = cpu.generate(machine.sizes.count, SEED, steps=machine.sizes.steps).tokens
    agreement(report, "network on the host: tokens as on the CPU, whole run", tokens, expected)


def exact(
    report: Report, machine: Machine, gen: smalti.Generator, device: Device, network: DeviceSession, what: str
) -> NDArray[np.int32]:
    """Follow a run, and draw each step again in NumPy from the logits that the device had. Return its tokens."""
    program = program_of(gen, machine)
    recorded = Recorded(device, network)
    tokens, wrong, drawn = program.start.copy(), 0, 0
    found = tokens
    with DeviceRun(device, program, recorded, gen.manifest.latent.grid) as run:
        for step, _ in zip(program.steps, run.steps()):
            found = run.result()
            answers, recorded.logits = recorded.logits, []
            if step.put:
                tokens.reshape(-1)[step.put.cells] = step.put.values
            for call, logits in zip(step.calls, answers, strict=True):
                wanted = call.wanted
                tokens = sample(
                    logits[: len(wanted), : wanted.shape[1]][wanted],  # what was added for few shapes is not drawn
                    tokens,
                    sample=np.broadcast_to(call.lines[:, None], wanted.shape)[wanted],
                    position=call.rows[wanted],
                    seeds=program.seeds,
                    step=np.broadcast_to(call.steps[:, None], wanted.shape)[wanted],
                    width=program.grid[1],
                    temperature=step.temperature,
                ).tokens
                drawn += int(wanted.sum())
            wrong += int((found.reshape(tokens.shape) != tokens).sum())
    report.compared(f"{what}: NumPy draws from the same logits", wrong, drawn, "tokens that differ, over all steps")
    return found


def agreement(
    report: Report, name: str, found: NDArray[Any], expected: NDArray[Any], least: float = 0.0, note: str = ""
) -> None:
    """Add the percentage of values that agree; below ``least`` it is a failure."""
    percent = 100.0 * float((found == expected).mean())
    verdict = ("passed" if percent >= least else "failed") if least else ""
    report.add(name, percent, "%", found.size, verdict, note)


def on_provider(report: Report, machine: Machine, bundle: Bundle, cpu: smalti.Generator, precision: Any) -> None:
    """Everything that one precision is asked."""
    backend = machine.backend()
    gen = smalti.load(bundle, precision=precision, backend=backend)
    assert isinstance(gen.backend, DeviceBackend)
    what = f"cuda {precision}" if machine.kind == "gpu" else f"stub {precision}"
    report.found[what] = gen.report.to_dict()
    network = gen.backend.bound(gen.session("denoiser"))
    exact(report, machine, gen, gen.backend.place, network, what)
    attempt(report, f"{what}: one step", one_step, report, machine, gen, cpu, what)
    attempt(report, f"{what}: nodes", nodes_of, report, network, what)
    for resolution in resolutions(gen, machine):
        if machine.left < 10:
            report.skip(f"{what}, {resolution} pixels", "no time was left")
            continue
        attempt(report, f"{what}, {resolution} pixels", whole_run, report, machine, gen, cpu, resolution, what)
    attempt(report, f"{what}: graphs", captured, report, machine, bundle, gen, precision, what)


def resolutions(gen: smalti.Generator, machine: Machine) -> list[int]:
    """Of the bundle's resolutions, those that this machine is to do."""
    there = [one.pixels for one in gen.manifest.resolutions] or [gen.manifest.resolution().pixels]
    return [pixels for pixels in there if not machine.sizes.resolutions or pixels in machine.sizes.resolutions]


def nodes_of(report: Report, network: Any, what: str) -> None:
    """Where the network's nodes run."""
    nodes = network.nodes()
    if not nodes:
        report.skip(f"{what}: nodes", "this ONNX Runtime does not tell where nodes run")
        return
    providers = {node.provider for node in nodes}
    counts = {one: sum(node.provider == one for node in nodes) for one in providers}
    report.add(
        f"{what}: nodes of the denoiser", ", ".join(f"{count} {one}" for one, count in counts.items()), "", len(nodes)
    )


def one_step(report: Report, machine: Machine, gen: smalti.Generator, cpu: smalti.Generator, what: str) -> None:
    """Both providers answer about the same half-masked grids; both draw with the same noise."""
    latent, count = cpu.manifest.latent, machine.sizes.count
    rng = np.random.default_rng(SEED)
    tokens = cpu.generate(count, SEED, steps=machine.sizes.steps).tokens.reshape(count, -1).astype(np.int32)
    rows = np.stack([rng.permutation(tokens.shape[1])[: tokens.shape[1] // 2] for _ in range(count)]).astype(np.int32)
    np.put_along_axis(tokens, rows, np.int32(latent.codes), axis=1)
    labels = (np.arange(count) % len(cpu.manifest.classes)).astype(np.int32)
    answers = [one.logits(tokens, labels, rows) for one in (cpu, gen)]
    error = float(np.abs(answers[0] - answers[1]).max())
    report.add(f"{what}: logits beside the CPU's fp32, greatest difference", error, "", answers[0].size)
    drawn = [
        sample(
            answer.reshape(-1, latent.codes),
            tokens,
            sample=np.repeat(np.arange(count), rows.shape[1]),
            position=rows.reshape(-1),
            seeds=range(count),
            step=1,
            width=latent.grid[1],
            temperature=cpu.manifest.sampler.temperature,
        ).tokens
        for answer in answers
    ]
    at = tuple(np.take_along_axis(one, rows, axis=1) for one in drawn)
    name = f"{what}: tokens as on the CPU in fp32, one draw from each's own logits"
    agreement(report, name, at[1], at[0], LEAST_AGREEMENT)


def whole_run(
    report: Report, machine: Machine, gen: smalti.Generator, cpu: smalti.Generator, resolution: int, what: str
) -> None:
    """A run from masks to pixels at one resolution; pixels are compared for the same tokens."""
    options: Any = {"steps": machine.sizes.steps, "resolution": resolution}
    found, expected = (one.generate(machine.sizes.count, SEED, **options) for one in (gen, cpu))
    name = f"{what}, {resolution} pixels"
    note = "differences grow from step to step"
    agreement(report, f"{name}: tokens as on the CPU in fp32, whole run", found.tokens, expected.tokens, 0.0, note)
    pixels = [np.stack([np.asarray(i) for i in one.decode(expected.tokens, resolution)]) for one in (gen, cpu)]
    agreement(report, f"{name}: pixel values as on the CPU in fp32, same tokens", *pixels)
    apart = np.abs(pixels[0].astype(np.int16) - pixels[1])
    mean = float((apart.astype(np.float64) ** 2).mean())
    psnr = 99.0 if mean == 0 else float(10 * np.log10(255**2 / mean))
    report.add(
        f"{name}: PSNR beside the CPU's pixels",
        psnr,
        "dB" if mean else "dB or more (equal)",
        apart.size,
        "passed" if psnr >= LEAST_PSNR else "failed",
        f"greatest difference {int(apart.max())} of 255; at least {LEAST_PSNR:.0f} dB",
    )


def captured(
    report: Report, machine: Machine, bundle: Bundle, gen: smalti.Generator, precision: Any, what: str
) -> None:
    """Runs with CUDA graphs: the first captures, later ones replay, and each has its own seed."""
    backend = machine.backend(graphs=True)
    graphed = smalti.load(bundle, precision=precision, backend=backend)
    note = "" if machine.kind == "gpu" else "no graph is captured on the stub"
    for number, seed in enumerate((SEED, SEED, SEED + 1, SEED + 2)):
        if machine.left < 5:
            report.skip(f"{what}: graphs", "no time was left")
            return
        try:
            runs = [one.generate(machine.sizes.count, seed, steps=machine.sizes.steps) for one in (graphed, gen)]
        except ProviderUnavailable as error:  # a graph that gives other results is refused so
            report.fail(f"{what}: run {number + 1} with CUDA graphs", str(error))
            return
        wrong = int((runs[0].tokens != runs[1].tokens).sum())
        images = [np.stack([np.asarray(image) for image in run.images]) for run in runs]
        wrong += int((images[0] != images[1]).sum())
        name = f"{what}: run {number + 1} with CUDA graphs, beside one without"
        report.compared(name, wrong, runs[0].tokens.size + images[0].size, "tokens and pixel values that differ", note)
