"""What follows from the facts about engines: what is installed to run them, and which of them a GPU here runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from smalti.backends.tensorrt.choice import PACKAGES
from smalti.bundle.engines import Runtime
from smalti.verification.doctor.facts import Engine, Gpu, Machine
from smalti.verification.doctor.finding import Finding, missing, ok, warn
from smalti.verification.doctor.install import choose, install_line, usable_gpus

TENSORRT: Final = re.compile(r"tensorrt(-rtx)?")
RTX: Final = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX runs on."""
OLDEST_TRT: Final = 75
"""Oldest compute capability that TensorRT 10.13 and later build for."""
BAD: Final = ("damaged", "other graph")
"""States of engines that no version of a runtime can use."""


def tensorrt(machine: Machine) -> Iterator[Finding]:
    """TensorRT-RTX and TensorRT."""
    there = [f"{name} {version}" for name, version in machine.packages if TENSORRT.fullmatch(name)]
    without = [gpu for gpu in machine.driver.gpus if gpu.capability not in RTX]
    note = f"; TensorRT-RTX does not run on {', '.join(gpu.name for gpu in without)}" if without else ""
    yield ok("TensorRT", ", ".join(there) + note if there else "not installed; only engines need it")


def engines(machine: Machine) -> Iterator[Finding]:
    """Engines of embedded bundles, their sizes, and whether a GPU here runs them."""
    for bundle in (*machine.bundles, *machine.named):
        own = [one for one in machine.engines if one.bundle == bundle and one.state not in BAD]
        if not own:
            whole = " that can be used" if any(one.bundle == bundle for one in machine.engines) else ""
            yield ok("engines", f"bundle {bundle} has none{whole}, and draws without")
            continue
        names = {target for one in own for target in one.targets}
        targets = ", ".join(sorted(names, key=lambda name: (len(name), name)))
        text = f"bundle {bundle} has {len(own)} for {targets} ({sum(one.bytes for one in own) / 1e6:.1f} MB)"
        matching = [one for one in own if any(_is_for(one, gpu) for gpu in machine.driver.gpus)]
        told = matching or own  # those for other GPUs may be shipped, or run here later
        fitting = [one for one in told if one.version == _version(machine, one.runtime)]
        old = [one for one in told if one not in fitting and _version(machine, one.runtime)]
        if old and not fitting:
            runtime, needed = old[0].runtime, sorted({one.version for one in old if one.runtime == old[0].runtime})
            yield warn(
                "engines",
                f"{text}; they need {PACKAGES[runtime]} {', '.join(needed)}, not {_version(machine, runtime)}",
                f"{install_line(machine, f'cli,{runtime}')} {PACKAGES[runtime]}=={needed[-1]}\n"
                "or build them again with 'smalti engine build'",
            )
        elif not matching:
            yield ok("engines", f"{text}; none is for a GPU here")
        else:
            yield ok("engines", f"{text}; {len(matching)} match a GPU here")
    if not machine.bundles:
        again = f"{choose(machine).line} --force-reinstall --no-deps"
        yield missing("engines", "the embedded bundle is missing from this installation", again)


def could_run(machine: Machine, runtime: Runtime) -> bool:
    """Whether an installed runtime runs engines on the first GPU, whether or not there are any."""
    if not usable_gpus(machine) or not _version(machine, runtime):
        return False
    capability = machine.driver.gpus[0].capability
    return capability in RTX if runtime == "rtx" else capability >= OLDEST_TRT


def runs_engines(machine: Machine, runtime: Runtime) -> bool:
    """Whether an embedded bundle has all that draws, as engines that the first GPU runs in the installed version."""
    if not usable_gpus(machine) or not (installed := _version(machine, runtime)):
        return False
    first = machine.driver.gpus[0]
    for bundle in (*machine.bundles, *machine.named):
        found = {
            one.component
            for one in machine.engines
            if (one.bundle, one.runtime, one.version) == (bundle, runtime, installed)
            and one.state not in BAD
            and _is_for(one, first)
        }
        if "decoder" in found and found & {"denoiser", "predictor"}:
            return True
    return False


def _is_for(engine: Engine, gpu: Gpu) -> bool:
    return f"sm_{gpu.capability}" in engine.targets and engine.device in ("", gpu.name)


def _version(machine: Machine, runtime: Runtime) -> str:
    """Return the installed version of an engine's runtime; empty if it is not installed."""
    return dict(machine.packages).get(PACKAGES[runtime], "")


def bad_engines(machine: Machine) -> Iterator[Finding]:
    """Engines of any bundle that are damaged or of another graph, and lists that cannot be read."""
    for bundle in sorted({one.bundle for one in machine.engines if one.state in BAD}):
        bad = [one for one in machine.engines if one.bundle == bundle and one.state in BAD]
        count = "1 engine that is" if len(bad) == 1 else f"{len(bad)} engines that are"
        states = " or ".join(sorted({"damaged" if one.state == "damaged" else "of another graph" for one in bad}))
        yield warn(
            "engines",
            f"bundle {bundle} has {count} {states}: {bad[0].note.partition('; ')[0]}",
            "build them again with 'smalti engine build'; 'smalti engine list' names them, and 'smalti engine prune' "
            "removes damaged ones from the cache",
        )
    for text in machine.broken_lists:
        yield warn(
            "engines",
            f"a list of engines cannot be used: {text}",
            "make a new one with 'smalti engine build'; one in the cache also goes with 'smalti engine prune'",
        )
