"""What follows from the facts: a verdict for each part of a machine, and what to do where something is wrong.

Pure functions of :class:`smalti.verification.doctor.facts.Machine`; what is about GPUs is in
:mod:`smalti.verification.doctor.gpu_findings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from smalti.backends.onnxruntime_options import CPU
from smalti.backends.registry import AUTO, PROVIDERS
from smalti.verification.doctor import engine_findings, gpu_findings
from smalti.verification.doctor.facts import Folder, Machine
from smalti.verification.doctor.finding import Finding, missing, ok, warn
from smalti.verification.doctor.install import WANTED, choose, usable_gpus, wheels
from smalti.verification.engines.listing import RUNTIMES
from smalti_kernels.platform import THREADS_VARIABLE

OLDEST = (1, 20)
"""The first version of ONNX Runtime that the extra cpu takes."""
OLDEST_GLIBC = (2, 28)
"""What the wheels of ONNX Runtime are built for."""
FAST = ("AVX2", "dot product")
"""One of these is what fast networks need of a processor."""
INT8 = ("AVX-512 VNNI", "AVX-VNNI", "AMX int8", "dot product", "int8 matrices")
"""Instruction sets that make int8 faster."""


def conclude(machine: Machine) -> list[Finding]:
    """Return the findings in the order in which they are told."""
    parts = (
        python,
        system,
        caches,
        processor,
        gpu_findings.driver,
        gpu_findings.gpus,
        packages,
        providers,
        gpu_findings.coverage,
        gpu_findings.cuda_libraries,
        gpu_findings.cudnn,
        gpu_findings.vulkan,
        gpu_findings.webgpu,
        engine_findings.tensorrt,
        engine_findings.engines,
        engine_findings.bad_engines,
        problems,
    )
    found = [finding for part in parts for finding in part(machine)]
    return [*found, *settings(machine, draws_with(machine, found))]


def draws_with(machine: Machine, findings: list[Finding]) -> list[str]:
    """Return the providers that should draw here; those of GPUs as far as it shows without running them."""
    bad = {one.topic for one in findings if one.verdict == "missing"}
    complete = [gpu for gpu in gpu_findings.complete_gpus(machine) if "cuDNN" not in bad or gpu.capability >= 75]
    fine = {
        "cuda": bool(complete) and "CUDA libraries" not in bad,
        "rtx": engine_findings.runs_engines(machine, "rtx"),
        "trt": engine_findings.runs_engines(machine, "trt"),
        "webgpu": gpu_findings.reaches_webgpu(machine) and not bad & {"WebGPU", "Vulkan"},
        "cpu": CPU in machine.onnxruntime.providers,
    }
    return [name for name, yes in fine.items() if yes]


def python(machine: Machine) -> Iterator[Finding]:
    """The interpreter."""
    found, needed = machine.python, machine.smalti.requires_python
    text = f"{'.'.join(map(str, found.version))}, {found.bits}-bit, {found.executable}"
    oldest = re.search(r">=\s*(\d+)\.(\d+)", needed)
    if oldest and found.version[:2] < (int(oldest[1]), int(oldest[2])):
        yield missing("Python", f"{text}; smalti needs {needed}", f"install Python {oldest[1]}.{oldest[2]} or newer")
    elif found.bits != 64:
        yield missing("Python", f"{text}; ONNX Runtime is for 64 bits only", "install a 64-bit Python")
    else:
        yield ok("Python", text)


def system(machine: Machine) -> Iterator[Finding]:
    """The operating system, and smalti's own version."""
    found = machine.system
    libc = f", {found.libc} {found.libc_version}".rstrip() if found.libc else ""
    text = f"{found.name} {found.release}, {found.machine}{libc}"
    version = tuple(map(int, re.findall(r"\d+", found.libc_version)[:2]))
    if found.libc == "musl":
        remedy = "use a system with glibc, such as Debian, Ubuntu or Fedora"
        yield missing("system", f"{text}; ONNX Runtime has no wheels for musl", remedy)
    elif found.machine.lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        yield missing("system", f"{text}; ONNX Runtime has no wheels for it", "use an x86-64 or 64-bit ARM machine")
    elif found.libc == "glibc" and version and version < OLDEST_GLIBC:
        needed = ".".join(map(str, OLDEST_GLIBC))
        yield warn("system", f"{text}; new packages need glibc {needed}", "use a newer version of the system")
    else:
        yield ok("system", text)
    origin = machine.smalti.source
    yield ok("smalti", machine.smalti.version + (f", installed from {origin}" if origin else ""))


def caches(machine: Machine) -> Iterator[Finding]:
    """Folders of caches, with sizes, and whether they can be written."""
    if machine.unwritable:
        yield warn("caches", machine.unwritable, "set SMALTI_CACHE_DIR to a folder that can be written")
        return
    if not machine.caches:
        return
    root, *inner = machine.caches
    parts = ", ".join(f"{_last(one.path)} {_size(one)}" for one in inner)
    yield ok(
        "caches", f"{root.path}: {_size(root) if root.bytes or inner else 'empty'}" + (f" ({parts})" if parts else "")
    )


def processor(machine: Machine) -> Iterator[Finding]:
    """Cores and instruction sets."""
    found = machine.processor
    name = found.name or "processor"
    text = f"{name}, {found.cores} core{'s' if found.cores != 1 else ''} usable"
    if found.instructions is None:
        yield ok("processor", f"{text}; instruction sets cannot be read")
    elif not any(one in found.instructions for one in FAST):
        yield warn("processor", f"{text}; it has no AVX2, so drawing is slow", "use a newer processor, or a GPU")
    else:
        speed = "" if any(one in found.instructions for one in INT8) else "; int8 gains little without VNNI or AMX"
        yield ok("processor", f"{text}: {', '.join(found.instructions)}{speed}")


def packages(machine: Machine) -> Iterator[Finding]:
    """Packages of ONNX Runtime, and whether what they bring can be imported."""
    there, found, choice = wheels(machine), machine.onnxruntime, choose(machine)
    versions = dict(machine.packages)
    named = " and ".join(f"{name} {versions[name]}" for name in there)
    mend = choice.line if not choice.uninstall else f"{choice.uninstall}\n{choice.line}"
    if len(there) > 1:
        broken = f"; it cannot be imported now: {found.problem}" if found.problem else ""
        yield (missing if found.problem else warn)(
            "ONNX Runtime", f"{named} overwrite each other, and neither can be trusted{broken}", mend
        )
    elif found.problem:
        on_windows = machine.system.name == "Windows" and "DLL" in found.problem
        redistributable = "install Microsoft's Visual C++ Redistributable\n" if on_windows else ""
        what = f"{named} cannot be imported" if there else "not installed"
        yield missing("ONNX Runtime", f"{what}: {found.problem}", redistributable + mend)
    elif not found.providers and (fits := [one for one in RUNTIMES if engine_findings.could_run(machine, one)]):
        text = f"not installed: provider {fits[0]} needs none, with a bundle that has engines for the GPU here"
        yield warn("ONNX Runtime", text, f"for all other bundles: {mend}")
    elif not found.providers:
        yield missing("ONNX Runtime", "not installed", mend)
    elif _numbers(found.version) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        yield warn("ONNX Runtime", f"{named or found.version}; smalti needs {needed} or newer", mend)
    elif choice.uninstall and (engines := [one for one in RUNTIMES if engine_findings.runs_engines(machine, one)]):
        yield ok("ONNX Runtime", f"{named} has no CUDA; the GPU draws with provider {' and '.join(engines)}")
    elif choice.uninstall and usable_gpus(machine):
        yield warn("ONNX Runtime", f"{named} has no CUDA, so that GPUs stay idle ({choice.why})", mend)
    elif there and there[0] not in WANTED.values():
        yield warn("ONNX Runtime", f"{named} is not a package that smalti is tested with", mend)
    else:
        yield ok("ONNX Runtime", named or f"{found.version}, of no installed package")


def providers(machine: Machine) -> Iterator[Finding]:
    """What ONNX Runtime lists."""
    if listed := machine.onnxruntime.providers:
        names = ", ".join(name.removesuffix("ExecutionProvider") for name in listed)
        yield ok("providers", f"{names}: what it was built with; this list does not say that they can be loaded")


def settings(machine: Machine, providers: list[str]) -> Iterator[Finding]:
    """Variables of the environment that smalti reads; ``providers`` are those that draw here."""
    given = dict(machine.variables)
    told = [f"{name} is {value!r}" for name, value in given.items()]
    if told:
        yield ok("settings", ", ".join(told))
    # What runs engines draws with a bundle that has them, or builds them first.
    draws = [AUTO, *providers, *(one for one in RUNTIMES if engine_findings.could_run(machine, one))]
    asked, threads = given.get("SMALTI_PROVIDER"), given.get(THREADS_VARIABLE)
    if asked is not None and asked not in (AUTO, *PROVIDERS):
        what = f"SMALTI_PROVIDER is {asked!r}, and no provider is called so"
        yield missing("settings", what, f"unset it, or set it to {AUTO}, {', '.join(PROVIDERS)}")
    elif asked is not None and asked not in draws:
        what = f"SMALTI_PROVIDER asks for {asked}, which does not draw here"
        yield missing("settings", what, "unset it, or name another provider with --provider")
    if threads is not None and not (threads.isdecimal() and int(threads) > 0):
        yield missing("settings", f"{THREADS_VARIABLE} is {threads!r}, and no number of cores", "set it to 1 or more")


def problems(machine: Machine) -> Iterator[Finding]:
    """What could not be read."""
    for problem in machine.problems:
        yield warn("doctor", f"could not be read: {problem}", "report it, with what smalti doctor --json prints")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _last(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _size(folder: Folder) -> str:
    count = folder.bytes
    text = (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.1f} MB"
        if count >= 1e5
        else f"{count / 1e3:.1f} kB"
    )
    return text if folder.whole else f"more than {text}"
