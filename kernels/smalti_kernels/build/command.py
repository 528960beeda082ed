"""Builds the kernels that ship: ``python -m smalti_kernels.build [--check] [-o DIR]``.

Compiles every form of `forms.py` for every target of `targets.py`. Any machine with Triton will do: it takes no GPU,
no driver and no torch. The same source and compiler give the same bytes anywhere, so `--check` rebuilds and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from smalti_kernels.build.compiler import clean_environment, compile_kernel, compiler_versions
from smalti_kernels.errors import KernelError, SmaltiError
from smalti_kernels.impl.abi import COMPILE_OPTIONS
from smalti_kernels.impl.cuda.prebuilt import FOLDER, Entry, PrebuiltList, read_image, read_manifest, write_kernels
from smalti_kernels.impl.cuda.targets import TARGETS, Target
from smalti_kernels.impl.forms import FORMS, Form

MAX_BYTES = 64 * 1024
"""Greatest size of one file."""
MAX_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that every device grants without being asked."""


class Job(NamedTuple):
    """One file to build."""

    form: Form
    target: Target


def build_one(job: Job) -> tuple[Entry, bytes]:
    """Compile one file. Runs in a process whose environment was cleaned before Triton was imported.

    Raises:
        KernelError: the file breaks a rule of what is shipped; the message names it.
    """
    form, target = job
    function = getattr(importlib.import_module(f"smalti_kernels.impl.triton.{form.module}"), form.kernel)
    name = f"{form.name}, {target.name}"
    try:
        compiled = compile_kernel(
            function,
            [argument.type for argument in form.arguments],
            [argument.aligned for argument in form.arguments],
            form.constants,
            {**COMPILE_OPTIONS, "num_warps": form.num_warps},
            target,
        )
    except KernelError as error:
        raise KernelError(f"{name}: {error.reason}", error.remedy) from None
    except Exception as error:
        # Triton's own errors do not all survive the way from one process to another; their text does.
        raise KernelError(f"{name}: the compiler failed: {type(error).__name__}: {error}") from None
    if compiled.kernel != form.kernel or compiled.num_warps != form.num_warps:
        raise KernelError(f"{name}: the compiler made {compiled.kernel} of {compiled.num_warps} warps")
    if compiled.shared_bytes > MAX_SHARED_BYTES or (not target.ptx and len(compiled.image) > MAX_BYTES):
        raise KernelError(
            f"{name}: {len(compiled.image)} bytes and {compiled.shared_bytes} of shared memory; "
            f"at most {MAX_BYTES} and {MAX_SHARED_BYTES} are allowed"
        )
    entry = Entry(
        target=target.name,
        variant=form.name,
        sha256=hashlib.sha256(compiled.image).hexdigest(),
        bytes=len(compiled.image),
        kernel=compiled.kernel,
        num_warps=compiled.num_warps,
        shared_bytes=compiled.shared_bytes,
        registers=compiled.registers,
        stack_bytes=compiled.stack_bytes,
        scratch_bytes=compiled.scratch_bytes,
        cuda=compiled.cuda,
    )
    return entry, compiled.image


def build_all(jobs: Iterable[Job], processes: int) -> tuple[dict[str, str], list[tuple[Entry, bytes]]]:
    """Compile in fresh processes, whatever this one has imported or has in its environment.

    Args:
        jobs: what to build.
        processes: how many to run at once.

    Returns:
        Compiler versions by name, and every file with its entry.

    Raises:
        KernelError: Triton is missing, or a file breaks a rule.
    """
    wanted = list(jobs)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_worker, initargs=(cache,)) as pool,
    ):
        versions = pool.submit(compiler_versions).result()
        built: list[tuple[Entry, bytes]] = []
        broken: list[KernelError] = []
        for number, future in enumerate([pool.submit(build_one, job) for job in wanted], start=1):
            try:
                built.append(future.result())
            except KernelError as error:
                broken.append(error)
            if sys.stderr.isatty():
                print(f"\r{number} of {len(wanted)}", end="\n" * (number == len(wanted)), file=sys.stderr, flush=True)
    if broken:
        raise KernelError(
            "\n".join(str(error) for error in broken), f"{len(broken)} of {len(wanted)} cannot be shipped"
        )
    return versions, built


def _start_worker(cache: str) -> None:
    """Prepare a process that compiles; it ends with the one that started it, however that one ends."""
    clean_environment(cache)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def differences(
    versions: Mapping[str, str], built: Sequence[tuple[Entry, bytes]], committed: PrebuiltList, folder: Path
) -> list[str]:
    """What is not as committed, a line each: files that differ, that are missing, or whose archive is damaged.

    Raises:
        KernelError: the compilers differ, so that nothing can be said.
    """
    if dict(versions) != dict(committed.compiler):
        raise KernelError(
            f"the kernels were built with {dict(committed.compiler)}, and here is {dict(versions)}",
            f'install the same compiler to compare (pip install "triton=={committed.compiler["triton"]}"), '
            "or build anew without --check and commit the result",
        )
    lines: list[str] = []
    for entry, image in built:
        there = committed.entries.get((entry.target, entry.variant))
        if there is None:
            lines.append(f"{entry.target} {entry.variant}: not in the manifest")
        elif there != entry:
            fields = [f"{k} {a!r} instead of {b!r}" for k, a, b in zip(Entry._fields, entry, there) if a != b]
            lines.append(f"{entry.target} {entry.variant}: {', '.join(fields)}")
        elif read_image(there, folder) != image:
            lines.append(f"{entry.target} {entry.variant}: other bytes of the same hash")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, or 1 with a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m smalti_kernels.build", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if what is there is not what is built"
    )
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, metavar="DIR", help="default: inside the package")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)"
    )
    parser.add_argument(
        "--target", action="append", choices=[t.name for t in TARGETS], help="with --check: only this one"
    )
    parser.add_argument("--variant", action="append", choices=list(FORMS), help="with --check: only this one")
    options = parser.parse_args(arguments)
    if not options.check and (options.target or options.variant):
        parser.error("--target and --variant choose what --check looks at; a build is always whole")
    jobs = [
        Job(form, target)
        for target in TARGETS
        for form in FORMS.values()
        if target.name in (options.target or [target.name]) and form.name in (options.variant or [form.name])
    ]
    started = time.perf_counter()
    try:
        committed = read_manifest(options.output) if options.check else None
        versions, built = build_all(jobs, max(1, options.jobs))
        if committed is None:
            write_kernels(options.output, versions, built)
            wrong: list[str] = []
        else:
            wrong = differences(versions, built, committed, options.output)
            if len(jobs) == len(TARGETS) * len(FORMS):
                extra = set(committed.entries) - {(entry.target, entry.variant) for entry, _ in built}
                wrong += [
                    f"{target} {variant}: in the manifest, and no longer built" for target, variant in sorted(extra)
                ]
    except SmaltiError as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.perf_counter() - started
    print(summary(versions, [entry for entry, _ in built], options.output, seconds))
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        print(
            f"{len(wrong)} differ from what is in {options.output}: build anew without --check and commit",
            file=sys.stderr,
        )
        return 1
    if options.check:
        print("all as committed")
    return 0


def summary(versions: Mapping[str, str], entries: Sequence[Entry], folder: Path, seconds: float) -> str:
    """A table of one line per target, with the greatest figure of its variants."""
    lines = [f"{'target':8} {'files':>5} {'largest':>8} {'registers':>9} {'shared':>6} {'stack':>5} {'archive':>8}"]
    for target in TARGETS:
        rows = [entry for entry in entries if entry.target == target.name]
        if rows:
            largest, registers, shared, stack = (
                max(column) for column in zip(*((e.bytes, e.registers, e.shared_bytes, e.stack_bytes) for e in rows))
            )
            archive = folder / f"{target.name}.zip"
            size = archive.stat().st_size if archive.exists() else 0
            lines.append(f"{target.name:8} {len(rows):5} {largest:8} {registers:9} {shared:6} {stack:5} {size:8}")
    lines.append(f"{len(entries)} files in {seconds:.1f} s with " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    return "\n".join(lines)
