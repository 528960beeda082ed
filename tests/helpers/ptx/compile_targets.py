"""Writes the PTX that Triton makes on the way to a cubin: ``compile_targets.py FOLDER TARGETS FORMS``.

Run as a script, in a process of its own, because Triton reads its environment when it is imported. Prints the dynamic
shared memory of each text, by the name of its file in the folder.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from smalti_kernels.build.compiler import clean_environment, compile_kernel
from smalti_kernels.impl.abi import COMPILE_OPTIONS
from smalti_kernels.impl.cuda.targets import TARGETS
from smalti_kernels.impl.forms import FORMS


def main(folder: str, targets: str, forms: str) -> None:
    """Compile every one of the forms for every one of the targets, each a list of names with commas."""
    cache = Path(folder, "cache")
    cache.mkdir()
    clean_environment(str(cache))
    triton: Any = importlib.import_module("triton")
    results: list[Any] = []
    compile_one = triton.compile

    def keep(*arguments: Any, **options: Any) -> Any:
        results.append(compile_one(*arguments, **options))
        return results[-1]

    triton.compile = keep
    report: dict[str, int] = {}
    for target in TARGETS:
        for form in FORMS.values():
            if target.name in targets.split(",") and form.name in forms.split(","):
                function = getattr(importlib.import_module(f"smalti_kernels.impl.triton.{form.module}"), form.kernel)
                options = {**COMPILE_OPTIONS, "num_warps": form.num_warps}
                types, aligned = zip(*((argument.type, argument.aligned) for argument in form.arguments))
                made = compile_kernel(function, types, aligned, form.constants, options, target)
                name = f"{form.name}.{target.name}.ptx"
                Path(folder, name).write_text(str(results[-1].asm["ptx"]))
                report[name] = made.shared_bytes
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
