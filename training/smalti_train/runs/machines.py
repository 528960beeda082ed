"""Processes that train together, perhaps on several machines: what all of them must see, and how they part.

The run folder is shared, and the main process alone writes into it. Caches of images may be each machine's own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import secrets
import time
import traceback
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import distributed

from smalti.errors import OutputError, SmaltiError, UsageError
from smalti.system.files import replace_file

if distributed.is_available():
    # Its functions' defaults keep the group that is there when it is imported, which torch does late, for ever.
    importlib.import_module("torch.distributed.nn.functional")

PATIENCE = timedelta(hours=6)
"""How long processes wait for one that works alone, say on the tokens of all images; its end is noticed at once."""
SEEN = 60.0
"""Seconds after which a network file system shows to everybody what somebody wrote."""
MARK = ".shared"
"""File in the run folder, written for a moment, by which the other processes know it."""


@contextlib.contextmanager
def together() -> Generator[None]:
    """Context of a training: on every way out, this process leaves the group in which it trained, if there was one.

    Gloo's threads must end before the interpreter does: one that frees a tensor while Python ends aborts the process
    ("terminate called without an active exception"). They end with the last reference to the group, so what is wrapped
    for it is collected here. Raises SmaltiError where the connection to another process was lost.
    """
    try:
        yield
    except BaseException as error:
        if distributed.is_available() and distributed.is_initialized():
            traceback.clear_frames(error.__traceback__)  # which hold what is wrapped
        if isinstance(error, RuntimeError) and _lost(error):
            reason = str(error).strip().splitlines()[0]
            raise SmaltiError(
                f"the connection to the other processes of this training is lost ({reason}). If one of them ended, its "
                "own message says why: run the same command on every machine again, and it goes on from the last "
                "checkpoint. If they never met, name the network between them with GLOO_SOCKET_IFNAME."
            ) from error
        raise
    finally:
        leave()


def leave() -> None:
    """End this process's part in the group of processes, with its threads; no effect where there is none."""
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
        gc.collect()


def _lost(error: RuntimeError) -> bool:
    """Whether an error comes from the connection between processes. Gloo's are plain RuntimeErrors."""
    said = str(error).lower()
    known = "gloo" in said or "connection closed by peer" in said
    return distributed.is_available() and (known or isinstance(error, distributed.DistError))


def gathered(accelerator: Accelerator, value: int) -> list[int]:
    """One number of each process (int64), in their order, on every process."""
    if accelerator.num_processes == 1:
        return [value]
    return [int(each) for each in accelerator.gather(torch.tensor([value], device=accelerator.device))]


def wait_until(seen: Callable[[], bool], folder: Path) -> bool:
    """Wait for what another process has written below ``folder``; False if it does not appear within ``SEEN`` seconds.

    ``seen`` may raise OSError for a file that is not there yet.
    """
    until = time.monotonic() + SEEN
    while True:
        with contextlib.suppress(OSError):
            if seen():
                return True
        if time.monotonic() > until:
            return False
        look_anew(folder)
        time.sleep(0.05)


def look_anew(folder: Path) -> None:
    """List a folder, since network file systems remember for a while that a file was not there, and forget it then."""
    with contextlib.suppress(OSError):
        os.listdir(folder)


def check_shared(accelerator: Accelerator, folder: Path) -> None:
    """Raise UsageError, on every process, unless all of them see the ``folder`` in which the main process writes."""
    if accelerator.num_processes == 1:
        return
    number, mark = str(gathered(accelerator, secrets.randbits(62))[0]), folder / MARK
    try:
        if accelerator.is_main_process:
            replace_file(mark, number.encode())
        accelerator.wait_for_everyone()
        found = gathered(accelerator, wait_until(lambda: mark.read_text("utf-8") == number, folder))
        if accelerator.is_main_process:
            mark.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from error
    if blind := [str(process) for process, sees in enumerate(found) if not sees]:
        raise UsageError(
            f"process {', '.join(blind)} does not see what process 0 writes to {folder}. A training on several "
            "machines needs one run folder that all of them share, such as on NFS: name it with --run"
        )


def check_same(accelerator: Accelerator, digest: str, what: str) -> None:
    """Raise UsageError, on every process, unless all have the same ``digest`` (hexadecimal) of ``what``."""
    found = gathered(accelerator, int(digest[:15], 16))
    if others := [str(process) for process, value in enumerate(found) if value != found[0]]:
        raise UsageError(
            f"process {', '.join(others)} has other {what} than process 0. Give every machine the same files and the "
            "same versions of smalti's packages and of libvips, or share the caches: set SMALTI_CACHE_DIR to a folder "
            "that all machines see"
        )
