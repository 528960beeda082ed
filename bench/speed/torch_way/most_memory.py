"""The most memory that one engine takes for a task, in a process of its own.

    python -m torch_way.most_memory FOLDER ENGINE TASK THREADS

FOLDER is of ``published_bundles``; ENGINE is smalti's precision, or a torch mode such as ``torch fp32``; TASK is
``picture`` (one step of the prior, and the decoder) or a number of pixels per side, which are decoded. Prints the
resident memory's greatest size in GB of 10^9 bytes, with interpreter, libraries and weights. Linux and macOS only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PLACE = Path(__file__).parents[1]


def most_memory(folder: Path, engine: str, task: str, threads: int) -> float | None:
    """Run the module in a new process; return GB, or None when the process was killed."""
    path = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, "-m", "torch_way.most_memory", str(folder.resolve()), engine, task, str(threads)]
    ended = subprocess.run(
        command, cwd=PLACE, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False
    )
    return float(ended.stdout.split()[-1]) if ended.returncode == 0 else None


def main() -> None:
    folder, engine, task, threads = sys.argv[1:]
    (by_torch if engine.startswith("torch") else by_smalti)(Path(folder), engine, task, int(threads))
    print(greatest() / 1e9)


def greatest() -> int:
    """Greatest resident size of this process, in bytes.

    Linux lets a new program inherit its parent's ``ru_maxrss``; the high-water mark of its own memory it does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def by_smalti(folder: Path, precision: str, task: str, threads: int) -> None:
    """Do the task by the runtime."""
    import smalti
    from smalti.bundle.reader import open_bundle

    bundle = open_bundle(folder)
    if task == "picture":
        smalti.load(bundle, "cpu", precision, threads).generate(1, 0, steps=1)
        return
    from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu

    decoder = OnnxRuntimeCpu(threads).open(bundle, "decoder", precision)  # pyright: ignore[reportArgumentType]
    decoder({"tokens": tokens_of(bundle.manifest.latent.codes, int(task) // bundle.manifest.latent.factor)})


def by_torch(folder: Path, engine: str, task: str, threads: int) -> None:
    """Do the task by torch, as the timings do."""
    import torch

    from torch_way.models import torch_way
    from torch_way.published_bundles import torch_models
    from torch_way.published_plans import plan_of
    from torch_way.samplers import picture

    torch.set_num_threads(threads)
    models = torch_models(folder, prior=task == "picture")
    way = torch_way(models, engine.removeprefix("torch "))
    assert way is not None
    if task == "picture":
        picture(way, plan_of(models, 1, 1), models.grid, 0)
        return
    tokens = tokens_of(models.codes, int(task) // models.codec.config.factor)
    with way.context():
        way.decode(torch.from_numpy(tokens.astype(np.int64)))


def tokens_of(codes: int, side: int) -> np.ndarray:
    """Random tokens, int32 [1, side, side]."""
    return np.random.default_rng(0).integers(codes, size=(1, side, side)).astype(np.int32)


if __name__ == "__main__":
    main()
