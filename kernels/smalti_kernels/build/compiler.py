"""Triton as an ahead-of-time compiler: one kernel in, one file and its figures out. No GPU, no driver, no torch.

Triton reads dozens of environment variables and keeps a cache in the user's home. `clean_environment` takes both out of
the result; call it in a process of its own, before anything imports Triton.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from smalti_kernels.build.elf import read_cubin
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.cuda.targets import PTX_VERSION, Target

_WARP: Final = 32
_REGISTERS: Final = 65536
"""Registers of a multiprocessor, on every target."""
_LADDER: Final = (8, 16, 32, 64)
"""Registers per thread that a kernel that spills is given more, in turn."""

# Float arithmetic in PTX. Only an explicit ".rn" forbids the assembler (the driver's, too) to contract a pair into one.
_PTX_FLOAT: Final = re.compile(r"^\s*(?:@!?%p\d+\s+)?((?:add|sub|mul|fma|mad)\.[\w.]*(?:b?f16(?:x2)?|f32|f64))\b", re.M)
# Float arithmetic fused in SASS. HFMA2 of zero times zero is how the assembler moves a constant: not arithmetic.
_SASS_FUSED: Final = re.compile(r"\b((?:[FDH]FMA|FFMA2|HFMA2|BFMA)\w*(?:\.\w+)*\b[^;]*);")
_SASS_MOVE: Final = re.compile(r"HFMA2[\w.]* R\d+, -RZ, RZ, ")


class Compiled(NamedTuple):
    """One compiled kernel."""

    image: bytes
    """The cubin, or the PTX text."""
    kernel: str
    """Name of its entry point."""
    num_warps: int
    shared_bytes: int
    """Dynamic shared memory per block, for the launch to ask for."""
    scratch_bytes: int
    """Global and profiling scratch memory that a launch would have to provide."""
    registers: int
    """Per thread, read from the cubin; 0 for PTX, whose registers the driver assigns."""
    stack_bytes: int
    """Local memory per thread: 0 says that nothing was spilled."""
    cuda: tuple[int, int]
    """CUDA version of the assembler, or of the PTX language's first toolkit."""


def clean_environment(cache: str) -> None:
    """Make Triton's output depend on the source alone.

    Args:
        cache: an empty folder for Triton's cache.
    """
    for name in [name for name in os.environ if name.startswith(("TRITON_", "MLIR_", "LLVM_", "PTXAS_"))]:
        del os.environ[name]
    os.environ["TRITON_CACHE_DIR"] = cache
    # Line tables name the source's path and triple the size.
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"


def compiler_versions() -> dict[str, str]:
    """Versions of Triton and of the two assemblers in its wheel.

    Raises:
        KernelError: Triton is not installed.
    """
    try:
        triton: Any = importlib.import_module("triton")
    except ImportError:
        raise KernelError("building the kernels needs Triton", 'install it: pip install "smalti[dev]"') from None
    backend: Any = importlib.import_module("triton.backends.nvidia.compiler")

    def assembler(capability: int) -> str:
        text = str(backend.get_ptxas_version(capability))
        found = re.search(r"\bV([\d.]+)", text)
        if found is None:
            raise KernelError(f"the assembler for sm_{capability} does not say which version it is: {text!r}")
        return found[1]

    return {
        "triton": str(triton.__version__),
        "ptxas": assembler(80),
        "ptxas-blackwell": assembler(120),
    }


def compile_kernel(
    function: Any,
    types: Sequence[str],
    aligned: Sequence[bool],
    constants: Mapping[str, int],
    options: Mapping[str, Any],
    target: Target,
) -> Compiled:
    """Compile one kernel for one target and check what must hold of every file that is shipped.

    Args:
        function: what `@triton.jit` made.
        types: Triton types of the run-time arguments in order.
        aligned: for each of them whether its value is divisible by 16.
        constants: values of the compile-time arguments, which follow the run-time ones.
        options: Triton's options, `num_warps` among them.
        target: what to compile for.

    Raises:
        KernelError: the result spills, needs scratch memory, fuses float arithmetic, or is not for the target.
    """
    triton: Any = importlib.import_module("triton")
    sources: Any = importlib.import_module("triton.compiler")
    backends: Any = importlib.import_module("triton.backends.compiler")
    names: list[str] = list(function.arg_names)
    kinds = [*types, *("constexpr" for _ in constants)]
    source = sources.ASTSource(
        function,
        dict(zip(names, kinds, strict=True)),
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index, yes in enumerate(aligned) if yes},
    )
    chosen = dict(options, ptx_version=PTX_VERSION) if target.ptx else dict(options)
    gpu = backends.GPUTarget("cuda", target.capability, _WARP)
    result = triton.compile(source, target=gpu, options=chosen)
    if not target.ptx and "maxnreg" not in options:
        # The assembler sometimes spills a register or two to fit one more block on a multiprocessor; where it may use
        # a few more, it does not. Figures and bytes stay reproducible: the ladder is part of the build.
        used = read_cubin(bytes(result.asm["cubin"])).kernels[0]
        most = min(255, _REGISTERS // used.threads)
        for more in _LADDER:
            if not used.stack_bytes or used.registers + more > most:
                break
            limited = dict(chosen, maxnreg=used.registers + more)
            result = triton.compile(source, target=gpu, options=limited)
            if not read_cubin(bytes(result.asm["cubin"])).kernels[0].stack_bytes:
                break
    meta, ptx = result.metadata, str(result.asm["ptx"])
    fused = loose_float_arithmetic(ptx)
    scratch = int(meta.global_scratch_size) + int(meta.profile_scratch_size)
    warps, shared = int(meta.num_warps), int(meta.shared)
    if target.ptx:
        compiled = Compiled(ptx.encode(), str(meta.name), warps, shared, scratch, 0, 0, (11, 1))
    else:
        image = bytes(result.asm["cubin"])
        cubin = read_cubin(image)
        (kernel,) = cubin.kernels
        if (cubin.arch, cubin.specific) != (target.capability, target.exact) or kernel.threads != warps * _WARP:
            raise KernelError(f"the compiler made {cubin}")
        fused += fused_float_arithmetic(image, target)
        compiled = Compiled(
            image, kernel.name, warps, shared, scratch, kernel.registers, kernel.stack_bytes, cubin.toolkit
        )
    if fused:
        raise KernelError(
            f"float arithmetic that is or may be fused: {', '.join(sorted(set(fused))[:4])}",
            "write the kernel so that every multiplication and addition is rounded on its own",
        )
    if compiled.stack_bytes or compiled.scratch_bytes:
        raise KernelError(
            f"{compiled.stack_bytes} bytes of stack and {compiled.scratch_bytes} of scratch memory",
            "hold less in registers: a smaller block, or more warps",
        )
    return compiled


def loose_float_arithmetic(ptx: str) -> list[str]:
    """Float instructions of a PTX text that are fused, that its assembler may fuse, or that flush small numbers."""
    found = [match[1] for match in _PTX_FLOAT.finditer(ptx)]
    return [name for name in found if name.startswith(("fma", "mad")) or ".rn" not in name or ".ftz" in name]


def fused_float_arithmetic(image: bytes, target: Target) -> list[str]:
    """Fused float instructions of a cubin; for Pascal, which the wheel's disassembler no longer reads, always none."""
    if target.capability < 75:
        return []
    knobs: Any = importlib.import_module("triton.knobs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(image)
        command = [knobs.nvidia.nvdisasm.path, "-c", str(path)]
        run = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if run.returncode or ".text." not in run.stdout:
        raise KernelError(f"the disassembler failed: {run.stderr.strip()}")
    return fused_instructions(run.stdout)


def fused_instructions(sass: str) -> list[str]:
    """Fused float instructions of a disassembly."""
    found = [match[1].strip() for match in _SASS_FUSED.finditer(sass)]
    return [instruction for instruction in found if not _SASS_MOVE.match(instruction)]
