"""A batch job over processes: many pictures, each saved with its recipe as soon as it is there; run it again to go on.

python docs/examples/batch.py FOLDER [--count 100] [--seed 0] [--label LABEL] [--processes 2] [--bundle BUNDLE]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import smalti

CHUNK = 8
"""Pictures that a process is given at a time: few enough that none waits for another at the end."""
worker: smalti.Generator


def begin(gen: smalti.Generator) -> None:
    """Get a process ready. Unpickling opened the bundle once in it, with as many threads as it had."""
    global worker
    worker = gen
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited: the first process ends the others
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End this process when the first one is killed; else it would wait for work for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def draw(folder: Path, seeds: list[int], label: str | None) -> tuple[int, int]:
    """Draw what is not there yet; return how many pictures were drawn, and how many were there."""
    written = worker.generate_into(folder, seeds=seeds, label=label)
    return written.drawn, written.skipped


def run(pool: concurrent.futures.ProcessPoolExecutor, asked: argparse.Namespace) -> None:
    """Hand out the seeds in chunks, and tell how far it is."""
    last = asked.seed + asked.count
    chunks = [list(range(first, min(first + CHUNK, last))) for first in range(asked.seed, last, CHUNK)]
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes start with it, so that Ctrl+C spares them
    calls = [pool.submit(draw, asked.folder, chunk, asked.label) for chunk in chunks]
    signal.signal(signal.SIGINT, handler)
    drawn = skipped = 0
    for call in concurrent.futures.as_completed(calls):
        drawn, skipped = drawn + call.result()[0], skipped + call.result()[1]
        print(f"\r{drawn + skipped} of {asked.count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{drawn} drawn, {skipped} were there")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="that of the first picture; the next ones have the next")
    parser.add_argument("--label", help="by default each seed draws its own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--bundle", help="a folder or .zip; by default the embedded bundle")
    asked = parser.parse_args()
    try:
        gen = smalti.load(asked.bundle, "cpu", threads=1)  # the processes share the cores, one thread each
    except smalti.SmaltiError as error:
        sys.exit(str(error))
    # Spawned, not forked: a fork copies no threads, and none of what lies on a GPU.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(asked.processes, spawn, begin, (gen,))
    try:
        run(pool, asked)
    except smalti.SmaltiError as error:
        sys.exit(f"\n{error}")
    except BrokenProcessPool:
        sys.exit("\na process was ended, perhaps for lack of memory; what is drawn is saved: run this again to go on")
    except KeyboardInterrupt:
        print("\nending; what is drawn is saved: run this again to go on", file=sys.stderr, flush=True)
        sys.exit(130)
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
