"""The extra of smalti for a machine, and the lines that install it, from facts alone."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from smalti.backends.onnxruntime_options import LIBRARY
from smalti.system.platform import Installation, requirement
from smalti.verification.doctor.facts import Gpu, Machine, Shell
from smalti_kernels.impl.cuda.driver import OLDEST_CUDA
from smalti_kernels.impl.cuda.targets import Target, target_for

WHEELS: Final = (
    LIBRARY,
    *(
        f"{LIBRARY}-{kind}"
        for kind in ("gpu", "directml", "openvino", "rocm", "migraphx", "qnn", "training", "silicon")
    ),
    *("ort-nightly", "ort-nightly-gpu"),
)
"""Packages that bring the module of ONNX Runtime, so that any two overwrite each other."""
GPU_WHEEL: Final = f"{LIBRARY}-gpu"
WANTED: Final = {"cu13": GPU_WHEEL, "cu12": GPU_WHEEL, "webgpu": LIBRARY, "cpu": LIBRARY}
"""The extras of which a machine takes one, and the package of ONNX Runtime that each brings."""
DRIVER_FOR: Final = {12: "525", 13: "580"}
"""The oldest driver for each version of CUDA."""
_PLAIN: Final = re.compile(r"[\w@%+=:./-]+")


class Choice(NamedTuple):
    """What to install."""

    extra: str
    why: str
    uninstall: str
    """A line to run first; empty if none is needed."""
    line: str


def target(machine: Machine, gpu: Gpu) -> Target | None:
    """Return the prebuilt kernels that a GPU runs with its driver."""
    return target_for(gpu.capability, machine.driver.cuda or (0, 0))


def runs(cuda: int, capability: int) -> bool:
    """Whether onnxruntime-gpu for a version of CUDA has code for a GPU.

    For CUDA 12 it has code for 6.0 and later, and PTX for what comes after 9.0. For CUDA 13 it has 7.5 .. 9.0 and 12.x.
    """
    if cuda == 12:
        return capability >= 60
    return 75 <= capability < 100 or capability // 10 == 12


def usable_gpus(machine: Machine) -> list[Gpu]:
    """Return the GPUs that provider cuda can run on, given the right packages."""
    if not _has_cuda_wheels(machine):
        return []
    return [gpu for gpu in machine.driver.gpus if target(machine, gpu) is not None]


def other_gpu(machine: Machine) -> str:
    """Return a GPU that WebGPU may reach, in words; empty if there is none. Linux must offer it through Vulkan."""
    makers = {one.vendor for one in machine.adapters}
    vulkan = [one.name for one in machine.vulkan.devices if one.kind not in ("CPU", "other")]
    return next((one for one in (*vulkan, *sorted(f"{maker} GPU" for maker in makers - {"NVIDIA"}))), "")


def choose_extra(machine: Machine) -> tuple[str, str]:
    """Return the extra for a machine, and the reason."""
    cuda, gpus = machine.driver.cuda or (0, 0), usable_gpus(machine)
    if gpus and cuda >= (13, 0) and all(runs(13, gpu.capability) for gpu in gpus):
        return "cu13", f"{_named(gpus)}, and a driver for CUDA {cuda[0]}.{cuda[1]}"
    if gpus and cuda >= OLDEST_CUDA:
        older = [gpu for gpu in gpus if not runs(13, gpu.capability)]
        reason = f"ONNX Runtime for CUDA 13 has no code for {_named(older)}"
        return (
            "cu12",
            reason if older else f"the driver supports CUDA {cuda[0]}.{cuda[1]}, and CUDA 13 needs driver 580",
        )
    if other := other_gpu(machine):
        if "webgpu" in machine.smalti.extras:
            return "webgpu", f"{other}, and no GPU for CUDA"
        return "cpu", f"this version of smalti draws on NVIDIA GPUs alone, and there is only {other}"
    return "cpu", "no GPU that smalti can use" if machine.driver.gpus or machine.adapters else "no GPU was found"


def choose(machine: Machine) -> Choice:
    """Return what to install, with the lines for the machine's shell."""
    extra, why = choose_extra(machine)
    return Choice(extra, why, uninstall_line(machine, extra), install_line(machine, f"cli,{extra}"))


def install_line(machine: Machine, extras: str) -> str:
    """Return the line that installs smalti with some extras, from where it was installed before."""
    where = Installation(machine.smalti.source, machine.smalti.editable)
    return shell_line([*_pip(machine, "install"), *requirement(extras, where)], machine.system.shell)


def wheels(machine: Machine) -> list[str]:
    """Return the installed packages that bring the module of ONNX Runtime."""
    return [name for name, _ in machine.packages if name in WHEELS]


def uninstall_line(machine: Machine, extra: str) -> str:
    """Return the line that removes what would be overwritten by, or is in the way of, the extra's ONNX Runtime."""
    there = wheels(machine)
    if there in ([], [WANTED[extra]]) and not (there and machine.onnxruntime.problem):
        return ""
    return uninstall(machine, there)


def uninstall(machine: Machine, packages: list[str]) -> str:
    """Return the line that removes packages."""
    words = [*_pip(machine, "uninstall"), *(["-y"] if machine.python.pip else []), *packages]
    return shell_line(words, machine.system.shell)


def shell_line(words: list[str], shell: Shell) -> str:
    """Join words for a shell. Double quotes mean the same in all of them, but where a word has ``$`` or the like."""
    quoted = [_quoted(word, shell) for word in words]
    # PowerShell takes a quoted word at the beginning as text.
    return ("& " if shell == "powershell" and quoted[0] != words[0] else "") + " ".join(quoted)


def _quoted(word: str, shell: Shell) -> str:
    if _PLAIN.fullmatch(word if shell == "posix" else word.replace("\\", "/")):
        return word
    if shell != "cmd" and re.search(r'["$`\\!]' if shell == "posix" else r'["$`]', word):
        return "'" + word.replace("'", "'\\''" if shell == "posix" else "''") + "'"
    return f'"{word}"'


def _pip(machine: Machine, verb: str) -> list[str]:
    """Return the words of pip, or of uv in an environment that has no pip."""
    python = machine.python
    return [python.command, "-m", "pip", verb] if python.pip else ["uv", "pip", verb, "--python", python.executable]


def _has_cuda_wheels(machine: Machine) -> bool:
    """Whether onnxruntime-gpu has wheels for the system and processor."""
    system = machine.system
    known = system.name in ("Linux", "Windows") and system.machine.lower() in ("x86_64", "amd64")
    return known and system.libc != "musl" and machine.python.bits == 64


def _named(gpus: list[Gpu]) -> str:
    return ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
