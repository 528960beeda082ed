"""What test_webgpu.py needs to know of runs on the WebGPU plugin, found out in a process of its own.

``python webgpu_runs.py BUNDLES OUT``: BUNDLES is a JSON object of paths by family. OUT becomes an .npz of tokens and
pixels; what else was found is printed as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import smalti
from smalti import SmaltiError
from smalti.backends.onnxruntime_webgpu import OnnxRuntimeWebGpu, WebGpuSession, assignment
from smalti.bundle.reader import open_bundle
from smalti.verification.remeasure import remeasure

OPTIONS: dict[str, dict[str, Any]] = {
    "absorbing": {"count": 2, "seed": 11, "steps": 2, "label": "lorelei"},
    "sundae": {"count": 3, "seed": 11, "steps": 22},
    "multinomial": {"count": 3, "seed": 11, "temperature": 0.8},
    "autoregressive": {"count": 2, "seed": 11, "guidance": 1.5},
}


def refused(act: Any) -> str:
    """The class and the message of what an action raises."""
    try:
        act()
    except SmaltiError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def golden(path: str) -> dict[str, list[str]]:
    """Figures out of tolerance of the fp32 components of a bundle, by component."""
    bundle = open_bundle(path)
    measured = remeasure(bundle, OnnxRuntimeWebGpu())
    return {one.component: list(one.missed) for one in measured}


def in_threads(path: str, options: dict[str, Any]) -> list[list[int]]:
    """Tokens of a generator in each of three threads."""
    found: dict[int, list[int]] = {}

    def work(index: int) -> None:
        found[index] = smalti.load(path, provider="webgpu").generate(**options).tokens.ravel().tolist()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[index] for index in range(3)]


def main(bundles: dict[str, str], out: Path) -> dict[str, Any]:
    """Run everything."""
    arrays: dict[str, np.ndarray] = {}
    nodes: dict[str, dict[str, list[Any]]] = {}
    started = time.perf_counter()
    backend = OnnxRuntimeWebGpu()
    opened = time.perf_counter() - started
    for family, path in bundles.items():
        gen = smalti.load(path, provider="webgpu")
        result = gen.generate(**OPTIONS[family])
        arrays[f"{family}.tokens"] = result.tokens
        arrays[f"{family}.images"] = np.stack([np.asarray(image) for image in result.images])
        for role, session in gen._sessions.items():
            assert isinstance(session, WebGpuSession)
            nodes[f"{family} {role}"] = {
                provider: [kind for (where, kind) in assignment(session._session) if where == provider]
                for provider in ("WebGpuExecutionProvider", "CPUExecutionProvider")
            }
    np.savez(out, **arrays)
    tiny = open_bundle(bundles["absorbing"])
    print(f"runs: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return {
        "opened": opened,
        "device": backend.device,
        "report": smalti.load(bundles["sundae"], provider="webgpu").report.to_dict(),
        "nodes": nodes,
        "threads": in_threads(bundles["sundae"], OPTIONS["sundae"]),
        "golden": golden(bundles["absorbing"]),
        "refused": {
            "int8": refused(lambda: smalti.load(tiny, provider="webgpu", precision="int8")),
            "fp16": refused(lambda: smalti.load(tiny, provider="webgpu", precision="fp16")),
            "an int8 session": refused(lambda: backend.open(tiny, "denoiser", "int8")),
        },
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
