"""Compiles a toy kernel and prints what came out: ``compile_toy.py CACHE KERNEL REGISTERS TARGET...``.

Run as a script, in a process of its own, because Triton reads its environment when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from smalti_kernels.build.compiler import clean_environment, compile_kernel, compiler_versions, fused_float_arithmetic
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.cuda.targets import TARGETS


def main(cache: str, kernel: str, registers: str, *names: str) -> None:
    clean_environment(cache)
    sys.path.insert(0, str(Path(__file__).parent))
    import toy_kernel

    report: dict[str, object] = {"versions": compiler_versions(), "torch": "torch" in sys.modules}
    for target in TARGETS:
        if target.name not in names:
            continue
        types, aligned = ("*fp32", "*fp32", "i32"), (True, True, False)
        options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False, "maxnreg": int(registers)}
        try:
            made = compile_kernel(getattr(toy_kernel, kernel), types, aligned, {"BLOCK": 4096}, options, target)
        except KernelError as error:
            report[target.name] = {"error": str(error)}
            continue
        path = Path(cache, f"{target.name}.file")
        path.write_bytes(made.image)
        figures = made._asdict() | {"image": str(path), "sha256": hashlib.sha256(made.image).hexdigest()}
        report[target.name] = figures | {"fused": fused_float_arithmetic(made.image, target) if not target.ptx else []}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
