"""Run a batch: begin or resume it, follow it, and leave its report; or verify one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from smalti.backends.registry import ON_NVIDIA
from smalti.batch.checking import Checking, strangers
from smalti.batch.cluster import Cluster
from smalti.batch.formats.format import Damaged, remove_any
from smalti.batch.formats.registry import format_of
from smalti.batch.loading import Loading
from smalti.batch.plan import Plan, read_plan, shard_name
from smalti.batch.processes import Processes
from smalti.batch.progress import Follow, Progress
from smalti.batch.rows import Failure, Summary
from smalti.batch.sampling import draw_again
from smalti.batch.shards import Making, Receipt, receipt_of
from smalti.batch.workers import Hands, run_shards
from smalti.loading.load import load
from smalti.loading.machine import nvidia_gpus
from smalti.system.files import write_whole
from smalti.system.platform import reachable
from smalti_kernels.platform import usable_cores

FAILED: Final = "failed.jsonl"
Tell = Callable[[str], object]
ON_DEVICES: Final = (*ON_NVIDIA, "webgpu")


@dataclass(frozen=True)
class Running:
    """Where the work is done."""

    address: str | None = None
    """None for processes of this machine, else that of a cluster: see :mod:`smalti.batch.cluster`."""
    actors: int | None = None
    """Workers; by default as many as there are cores or GPUs for."""


@dataclass(frozen=True)
class Report:
    """What a run left."""

    folder: str
    work: str
    bundle: str
    rows: int
    made: int
    there: int
    failed: int
    files: int
    digest: str
    """sha256 of the digests of all files: equal for equal rows in equal files."""
    kinds: tuple[str, ...]
    """What computed them."""
    actors: int
    seconds: float
    per_second: float | None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Verified:
    """What a check found."""

    folder: str
    rows: int
    failed: int
    files: int
    digest: str
    kinds: tuple[str, ...]
    sampled: int
    equal: int
    """Sampled rows that this machine makes again as they are."""
    problems: tuple[str, ...]
    """What is missing, doubled, foreign, damaged or changed; empty where the batch is as it should be."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)


def run(
    folder: Path, loading: Loading, running: Running, *, follow: Follow | None = None, tell: Tell = print
) -> Report:
    """Do what is left of the batch in ``folder``, whose plan was written.

    Files that are there and whole are left as they are. Raises what a worker raised, KeyboardInterrupt and SystemExit;
    whole files stay, and the next run goes on.
    """
    folder = reachable(folder).absolute()
    plan = read_plan(folder).plan
    there, wrong = files_there(folder, plan)
    for line in wrong:
        tell(line)
    left = [shard for shard in range(plan.shards) if shard not in there]
    follow = replace(follow or Follow(None, 0), folder=folder, rows=plan.rows)
    for summary in there.values():
        follow.there += summary.rows + len(summary.failed)
        follow.failed += len(summary.failed)
    receipts = {shard: receipt_of(summary) for shard, summary in there.items()}
    actors = 0
    with _ending(follow):
        if left:
            loading = _settled(loading, running)
            hands, actors = _hands(folder, loading, running, len(left))
            with contextlib.closing(run_shards(hands, Making(folder, loading), left, actors)) as told:
                for receipt in told:
                    if receipt is not None:
                        receipts[receipt.shard] = receipt
                        follow.add(receipt.rows + len(receipt.failed), len(receipt.failed))
                    follow.tell()
    _remove_partial(folder)
    last = follow.end("finished")
    return _report(folder, plan, [receipts[shard] for shard in range(plan.shards)], last, actors)


def verify(folder: Path, loading: Loading, running: Running, sample: int, *, follow: Follow | None = None) -> Verified:
    """Check all files of a batch, and make ``sample`` rows again on this machine.

    Raises UsageError where there is no batch, and as :func:`smalti.load` does where rows are made again.
    """
    folder = reachable(folder).absolute()
    plan = read_plan(folder).plan
    follow = replace(follow or Follow(None, 0), folder=None, rows=plan.rows)
    receipts: list[Receipt] = []
    hands, actors = _hands(folder, Loading(None, "cpu"), running, plan.shards)
    with contextlib.closing(run_shards(hands, Checking(folder), range(plan.shards), actors)) as told:
        for receipt in told:
            if receipt is not None:
                receipts.append(receipt)
                follow.add(len(plan.rows_of(receipt.shard)), len(receipt.failed))
            follow.tell()
    follow.end("finished")
    receipts.sort(key=lambda one: one.shard)
    problems = [line for one in receipts for line in one.problems]
    foreign = strangers(folder, plan)
    problems += [f"{name} is no file of this batch" for name in foreign]
    kinds = _kinds(receipts)
    notes = _remedy(folder, plan, receipts, foreign)
    if len(kinds) > 1:
        notes.append(f"rows come from several kinds: {'; '.join(kinds)}")
    if plan.keep == "none":
        notes.append("no pictures are kept, so that only checksums, tokens and the sample tell of changes")
    sampled = equal = 0
    if sample:
        again = draw_again(folder, loading, sample)
        sampled, equal = again.rows, again.equal
        problems += again.problems
        notes += again.notes
    return Verified(
        folder=str(folder),
        rows=sum(one.rows for one in receipts),
        failed=sum(len(one.failed) for one in receipts),
        files=plan.shards,
        digest=_digest(receipts),
        kinds=kinds,
        sampled=sampled,
        equal=equal,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def files_there(folder: Path, plan: Plan) -> tuple[dict[int, Summary], list[str]]:
    """Return what the files that are there say of themselves, and a line for each that is to be made again."""
    format, found, wrong = format_of(plan), dict[int, Summary](), list[str]()
    names = set(os.listdir(folder))
    for shard in range(plan.shards):
        if (name := shard_name(shard, format.suffix)) not in names:
            continue
        try:
            summary = format.summary(folder / name)
        except (Damaged, OSError) as error:
            wrong.append(f"{name} is made again: {error}")
            continue
        if (summary.plan, summary.shard) == (plan.digest, shard):
            found[shard] = summary
        else:
            wrong.append(f"{name} is made again: it is of another batch")
    return found, wrong


def _hands(folder: Path, loading: Loading, running: Running, shards: int) -> tuple[AbstractContextManager[Hands], int]:
    """Return workers, and how many are started."""
    if running.address is not None:
        cluster = Cluster(running.address, loading, running.actors, usable_cores())
        return cluster, min(cluster.actors, shards)
    gpus = nvidia_gpus() if loading.backend is None and loading.provider in ON_NVIDIA else []
    return Processes(folder, gpus), min(running.actors or _processes(loading, gpus), shards)


def _processes(loading: Loading, gpus: list[str]) -> int:
    """Return how many processes this machine has room for: one on each of its GPUs, else one for each of its cores."""
    if loading.backend is None and loading.provider in ON_DEVICES:
        return max(1, len(gpus))
    return max(1, usable_cores() // (loading.threads or 1))


def _settled(loading: Loading, running: Running) -> Loading:
    """Return how workers load: on this machine by the provider that ``auto`` finds, which is then one for all."""
    if running.address is not None or loading.provider != "auto" or loading.backend is not None:
        return loading
    return replace(loading, provider=load(loading.bundle, "auto", loading.precision, loading.threads).report.actual)


@contextlib.contextmanager
def _ending(follow: Follow) -> Generator[None]:
    """Say in the progress's file how a run ended, where it did not finish."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        with contextlib.suppress(OSError):
            follow.end("stopped")
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            follow.end("failed")
        raise


def _remove_partial(folder: Path) -> None:
    """Remove what killed workers left unfinished. One that should still write finds all files there."""
    for path in folder.glob(".part-*.partial"):
        remove_any(path)


def _remedy(folder: Path, plan: Plan, receipts: list[Receipt], foreign: list[str]) -> list[str]:
    """Say how files with problems are made again: a run reads no rows, and only makes files that are not there."""
    names = [shard_name(one.shard, format_of(plan).suffix) for one in receipts if one.problems]
    wrong = [name for name in names if (folder / name).exists()] + foreign
    if not names and not foreign:
        return []
    return [f"to mend it, remove {', '.join(wrong)}, and resume" if wrong else "to mend it, resume"]


def _report(folder: Path, plan: Plan, receipts: list[Receipt], last: Progress, actors: int) -> Report:
    failed = [
        (one, shard_name(receipt.shard, format_of(plan).suffix)) for receipt in receipts for one in receipt.failed
    ]
    _write_failed(folder, failed)
    return Report(
        folder=str(folder),
        work=plan.work,
        bundle=plan.bundle,
        rows=sum(one.rows for one in receipts),
        made=last.done - last.there,
        there=last.there,
        failed=len(failed),
        files=plan.shards,
        digest=_digest(receipts),
        kinds=_kinds(receipts),
        actors=actors,
        seconds=last.seconds,
        per_second=last.per_second,
    )


def _write_failed(folder: Path, failed: list[tuple[Failure, str]]) -> None:
    """Write each failure with the file that its row would be in."""
    path = folder / FAILED
    if failed or path.exists():
        lines = [msgspec.json.encode(msgspec.structs.asdict(one) | {"file": name}) for one, name in failed]
        write_whole(path, b"".join(line + b"\n" for line in lines))


def _digest(receipts: list[Receipt]) -> str:
    return sha256("".join(one.digest for one in receipts).encode()).hexdigest()


def _kinds(receipts: list[Receipt]) -> tuple[str, ...]:
    return tuple(sorted({kind for one in receipts for kind in one.kinds}))
