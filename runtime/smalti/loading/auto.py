"""Provider ``auto``: of all that compute the bundle's golden inputs as certified, the one that draws fastest here."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Final

from smalti.backends.base import Backend
from smalti.backends.registry import AUTO, open_backend
from smalti.backends.tensorrt.bindings import installed_version
from smalti.backends.tensorrt.choice import NAMES, Host, fitting
from smalti.backends.webgpu_plugin import PLUGIN
from smalti.bundle.engine_folder import engines_of
from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role
from smalti.bundle.reader import Bundle
from smalti.drawing.generator import GIVEN, Generator
from smalti.errors import ProviderUnavailable
from smalti.loading.machine import fingerprint
from smalti.loading.trial import Trial, try_out, try_provider
from smalti.loading.trial_process import in_own_process
from smalti.system.platform import system_name
from smalti.system.verdicts import alone, keep, kept, key_of
from smalti.verification.doctor.install import GPU_WHEEL
from smalti.verification.doctor.safe_driver import safe_driver
from smalti.verification.engines.hosts import engine_precisions
from smalti_kernels import KernelError

_log = logging.getLogger(__name__)

Present = Callable[[Bundle, str], str]
"""Why a provider need not be tried with a bundle and a precision, in words; empty if it is to be tried."""


def load_best(
    bundle: Bundle,
    precision: str,
    threads: int | None,
    gpus: Mapping[str, Present] | None = None,
    try_gpu: Callable[[Bundle, str, str], Trial] = in_own_process,
) -> Generator:
    """Load a bundle on the fastest provider that computes its golden inputs as certified.

    ``gpus`` are the providers beside the CPU, ``try_gpu`` makes a trial of one. Trials are kept for the machine as it
    is, so that they happen once. A precision that only some providers run leaves the others out.

    Raises ProviderUnavailable when none passes; UsageError and BundleError as :func:`smalti.load` does.
    """
    machine = fingerprint()
    with alone():
        on_cpu, generator = _cpu_trial(bundle, precision, threads, machine, timed=False)  # raises what is asked wrongly
        absent = {name: why(bundle, precision) for name, why in (PRESENT if gpus is None else gpus).items()}
        there = [name for name, why in absent.items() if not why]
        trials = {name: _gpu_trial(bundle, name, precision, machine, try_gpu) for name in there}
        if on_cpu.seconds is None and any(not trial.problem for trial in trials.values()):
            on_cpu, generator = _cpu_trial(bundle, precision, threads, machine, timed=True)
    trials["cpu"] = on_cpu
    left = {name: trial for name, trial in trials.items() if not trial.problem}
    refused = {name: trial.problem for name, trial in trials.items() if trial.problem}
    for name in sorted(left, key=lambda name: left[name].seconds or 0.0):
        try:
            if name != "cpu" or generator is None:
                generator = Generator(bundle, open_backend(name, threads), left[name].precision)
        except (ProviderUnavailable, KernelError) as error:
            # It passed its trial and is gone now, as a GPU is whose memory others have taken.
            refused[name] = str(error)
            continue
        why = _words(name, left, refused, absent)
        report = generator.report
        why += f"; {report.why.removeprefix(f'{GIVEN}; ')}"
        generator.report = replace(report, requested=AUTO, requested_precision=precision, why=why)
        return generator
    told = "; ".join(f"{name}: {problem}" for name, problem in (*refused.items(), *_grouped(absent)))
    if any(trial.judged for trial in trials.values()):
        raise ProviderUnavailable(
            f"no provider here computes what {bundle.path} was certified to: {told}. Name a provider and a precision "
            "to use it all the same, or see smalti bundle verify --run"
        )
    raise ProviderUnavailable(f"no provider can run here: {told}. smalti doctor says what to install")


def _gpu_trial(
    bundle: Bundle, name: str, precision: str, machine: str, try_gpu: Callable[[Bundle, str, str], Trial]
) -> Trial:
    engines = [one.record.engine.sha256 for one in engines_of(bundle)[0]] if name in NAMES else []
    key = key_of(bundle.digest, name, precision, machine, *engines)
    nowhere = key_of(name, machine)
    if (found := kept(key, Trial) or kept(nowhere, Trial)) is None:
        _log.info("provider %s is tried once with %s", name, bundle.manifest.name)
        found = _tried(bundle, name, precision, try_gpu)
        keep(nowhere if found.absent else key, found)
    return found


def _tried(bundle: Bundle, name: str, precision: str, try_gpu: Callable[[Bundle, str, str], Trial]) -> Trial:
    if getattr(sys, "frozen", False) and try_gpu is in_own_process:  # there is no Python to start
        return try_provider(bundle, name, precision)
    return try_gpu(bundle, name, precision)


def _cpu_trial(
    bundle: Bundle, precision: str, threads: int | None, machine: str, *, timed: bool
) -> tuple[Trial, Generator | None]:
    """Return the CPU's trial, and its generator where it was just made. It is timed beside others alone."""
    try:
        backend: Backend = open_backend("cpu", threads)
    except ProviderUnavailable as error:
        return Trial(provider="cpu", problem=str(error)), None
    key = key_of(bundle.digest, "cpu", precision, backend.threads, machine)
    found = kept(key, Trial)
    if found is not None and (found.seconds is not None or not timed or found.problem):
        return found, None
    found, generator = try_out(bundle, backend, precision, timed=timed)
    keep(key, found)
    return found, generator


def _words(name: str, left: Mapping[str, Trial], refused: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """Return why a provider was taken."""
    chosen = left[name]
    speed = f", {chosen.seconds:.3g} s a picture" if chosen.seconds is not None and len(left) > 1 else ""
    told = [f"{name} was tried{speed}: {chosen.note}" if chosen.note else f"{name} passed the golden inputs{speed}"]
    others = {other: trial for other, trial in left.items() if other != name and other not in refused}
    slower = [f"{other} {trial.seconds:.3g} s" for other, trial in others.items() if trial.seconds]
    told += [f"slower: {', '.join(slower)}"] if slower else []
    told += [f"{other} was refused: {problem}" for other, problem in refused.items()]
    told += [f"{others}: {why}" for others, why in _grouped(absent)]
    return "; ".join(told)


def _grouped(absent: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return providers that need not be tried, those of one reason together, and the reason."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, why in absent.items():
        if why:
            grouped[why].append(name)
    return [(" and ".join(names), why) for why, names in grouped.items()]


def _without_driver(precision: str) -> str:
    """Return why no NVIDIA GPU can be used, in words; empty if one can."""
    if precision == "int8":
        return "int8 is for CPUs"
    found, problem = safe_driver()
    return "" if found else problem


def _cuda(bundle: Bundle, precision: str) -> str:
    return _without_driver(precision) or ("" if _version(GPU_WHEEL) else f"{GPU_WHEEL} is not installed")


def _engines(runtime: Runtime) -> Present:
    def present(bundle: Bundle, precision: str) -> str:
        if why := _without_driver(precision):
            return why
        version, (found, _) = installed_version(runtime), safe_driver()
        if not version or found is None:
            return f"{NAMES[runtime]} is not installed"
        device = found.device(0)
        target = f"sm_{device.capability}"
        runs = engine_precisions(runtime, target)
        if not runs:
            return f"{NAMES[runtime]} does not run on {device.name}"
        host = Host(runtime, version, target, device.name, system_name())
        wanted: list[Precision] = [one for one in runs if precision in ("auto", one)]
        engines, _ = engines_of(bundle)
        needed: tuple[Role, ...] = (PRIOR_ROLES[bundle.manifest.family], "decoder")
        for role in (one for one in needed if one in bundle.manifest.components):
            if not any(fitting(engines, bundle, host, role, one)[0] for one in wanted):
                return f"there is no engine of the {role} for this GPU; smalti engine build makes it"
        return ""

    return present


def _webgpu(bundle: Bundle, precision: str) -> str:
    if precision == "int8":
        return "int8 is for CPUs"
    return "" if _version(PLUGIN) else f"{PLUGIN} is not installed"


PRESENT: Final[Mapping[str, Present]] = {
    "cuda": _cuda,
    "rtx": _engines("rtx"),
    "trt": _engines("trt"),
    "webgpu": _webgpu,
}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
