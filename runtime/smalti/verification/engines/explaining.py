"""Which engine would run on a GPU, why each of the others would not, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from smalti.backends.tensorrt.backend import PREFERRED
from smalti.backends.tensorrt.choice import Host, fitting
from smalti.bundle.engine_folder import KeptEngine, engines_of
from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, Bundle
from smalti.system.platform import quoted, system_name
from smalti.verification.doctor.safe_driver import safe_driver
from smalti.verification.engines.cards import GPUS
from smalti.verification.engines.hosts import Support, capability_of, check_target, engine_precisions, supports
from smalti.verification.engines.listing import RUNTIMES, Installed
from smalti_kernels.errors import KernelError

WHEEL: Final = (
    "smalti[rtx] brings TensorRT-RTX, which runs engines. The wheel of smalti carries graphs and no engines: "
    "'smalti engine build' (smalti[engines]) makes them once, in seconds, and keeps them in the cache; a zip that "
    "'smalti engine build -o FILE.zip' made carries them."
)
"""What the extra does where there are no engines."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that is asked about."""

    target: str
    """Its compute capability, such as sm_75; empty if there is none."""
    name: str
    """Its name, or why there is none."""
    here: bool
    """Whether it is in this machine."""
    cuda: tuple[int, int] | None = None
    """CUDA version of its driver; None where that is not known."""


@dataclass(frozen=True)
class Outcome:
    """What a runtime does with a component in a precision."""

    runtime: Runtime
    precision: Precision
    component: Role
    engine: str
    """Where the engine lies that runs; empty for none."""
    version: str
    """Version of the runtime that it needs."""
    targets: tuple[str, ...]
    """GPUs that it is for."""
    reasons: tuple[str, ...]
    """Why each of the others is not used."""


@dataclass(frozen=True)
class Remedy:
    """What to do about components without an engine."""

    runtime: Runtime
    precision: Precision
    line: str
    """A command."""
    optional: bool
    """Whether engines can draw without it: at most one is not."""
    where: str
    """Where the command must run; empty for anywhere."""


@dataclass(frozen=True)
class Explanation:
    """Everything that was found out."""

    bundle: str
    path: str
    gpu: Gpu
    supports: tuple[Support, ...]
    """What of smalti runs on the GPU; empty where there is none."""
    installed: dict[Runtime, str]
    """Version of each runtime that is installed; empty for none."""
    outcomes: tuple[Outcome, ...]
    remedies: tuple[Remedy, ...]
    tries: tuple[str, ...]
    """Providers that ``auto`` would try there, where their packages are installed; empty where there is no GPU."""
    notes: tuple[str, ...]
    """Lists of engines that cannot be used, and what an installation without engines means."""


def find_gpu(asked: str | None) -> Gpu:
    """Return the GPU of a target, or this machine's first one; its target is empty where there is none.

    Raises UsageError for a target that is not known.
    """
    if asked is not None:
        target = check_target(asked)
        return Gpu(target, f"{GPUS[target]} and the like", here=False)
    found, problem = safe_driver()
    if found is None:
        return Gpu("", problem, here=False)
    try:
        device = found.device(0)
    except KernelError as error:
        return Gpu("", error.reason, here=False)
    return Gpu(f"sm_{device.capability}", device.name, here=True, cuda=found.version)


def explain(bundle: Bundle, gpu: Gpu, installed: Installed, word: str = "") -> Explanation:
    """Explain which engines of a bundle run on a GPU. Files are checked, so that damage is told.

    ``word`` is how the user named the bundle, for commands; empty for the default one.
    """
    kept, notes = engines_of(bundle)
    outcomes: list[Outcome] = []
    remedies: list[Remedy] = []
    complete = wanted = False
    for runtime in RUNTIMES:
        allowed = engine_precisions(runtime, gpu.target) if gpu.target else PREFERRED
        host = Host(runtime, installed.get(runtime, ""), gpu.target)
        if gpu.here and runtime == "trt":
            host = Host(runtime, host.version, gpu.target, gpu.name, system_name())
        for precision in allowed:
            roles = [role for role in bundle.manifest.components if precision in bundle.precisions(role)]
            found = [_outcome(kept, bundle, host, role, precision) for role in roles]
            outcomes += found
            missing = [one.component for one in found if not one.engine]
            complete = complete or (bool(found) and not missing)
            if missing and gpu.target:
                some = missing if len(missing) < len(found) else []
                line = _command(bundle, word, host, precision, some, _worn(kept, bundle, host, precision, missing))
                where = f"on the machine with the {gpu.target}" if runtime == "trt" and not gpu.here else ""
                remedies.append(Remedy(runtime, precision, line, wanted, where))
            wanted = wanted or bool(found)
    if complete:
        remedies = [replace(one, optional=True) for one in remedies]
    told = supports(gpu.target, gpu.cuda) if gpu.target else []
    none = not any(one.engine and one.runtime == "rtx" for one in outcomes)
    if none and all(one.works for one in told if one.name == "rtx"):
        notes = [*notes, WHEEL]
    versions: dict[Runtime, str] = {runtime: installed.get(runtime, "") for runtime in RUNTIMES}
    return Explanation(
        bundle.manifest.name,
        str(bundle.path),
        gpu,
        tuple(told),
        versions,
        tuple(outcomes),
        tuple(remedies),
        _tries(bundle, told, outcomes),
        tuple(notes),
    )


def _tries(bundle: Bundle, told: Sequence[Support], outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Return the providers that ``auto`` would try: those of engines only where all that draws has one."""
    needed = {role for role in (PRIOR_ROLES[bundle.manifest.family], "decoder") if role in bundle.manifest.components}
    there = {(one.runtime, one.component) for one in outcomes if one.engine}
    lacking = {runtime for runtime in RUNTIMES if not {(runtime, role) for role in needed} <= there}
    return tuple(one.name for one in told if one.works and one.name != "kernels" and one.name not in lacking)


def _worn(
    kept: Sequence[KeptEngine], bundle: Bundle, host: Host, precision: Precision, missing: Sequence[Role]
) -> list[KeptEngine]:
    """Return the engines for a GPU in the place of which new ones are to be built, as damaged ones."""
    return [
        one
        for one in kept
        if (one.record.runtime, one.record.precision) == (host.runtime, precision)
        and one.record.component in missing
        and host.target in one.record.targets
    ]


def _outcome(kept: list[KeptEngine], bundle: Bundle, host: Host, role: Role, precision: Precision) -> Outcome:
    asked = (host.runtime, role, precision)
    own = [one for one in kept if (one.record.runtime, one.record.component, one.record.precision) == asked]
    engine, reasons = fitting(own, bundle, host, role, precision, KeptEngine.check)
    if engine is None:
        return Outcome(host.runtime, precision, role, "", "", (), tuple(reasons))
    reasons += [f"{one.path}: another one comes first" for one in own[own.index(engine) + 1 :]]
    record = engine.record
    return Outcome(host.runtime, precision, role, engine.path, record.version, record.targets, tuple(reasons))


def _command(
    bundle: Bundle, word: str, host: Host, precision: Precision, components: list[Role], worn: Sequence[KeptEngine]
) -> str:
    """Return the command that builds components, for all GPUs that the ``worn`` engines were for, and in their place.

    Where the bundle carries those, the new ones belong there too: what it carries comes before the cache.
    """
    words = ["smalti engine build", *([quoted(word)] if word else []), "--runtime", host.runtime]
    if host.runtime == "rtx":  # TensorRT builds for the GPU at hand
        targets = {host.target, *(target for one in worn for target in one.record.targets)}
        words += [f"--target {target}" for target in sorted(targets, key=capability_of)]
    words += ["--precision", precision] if precision != PREFERRED[0] else []
    words += [f"--component {role}" for role in components]
    if word and any(one.root == bundle.path for one in worn):
        words += ["-o", quoted(word if bundle.path.is_file() else str(Path(word, ENGINES_FOLDER)))]
    return " ".join(words)
