"""Build, ship, prune or use engines in processes that kill themselves before the n-th change of a file, for every n.

    python kill_engines.py build|zip|prune|compiled BUNDLE CACHE

copies the folder CACHE for each n to a folder beside it, ``build-00`` and so on. The last process ran to its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from helpers.compiled import used  # noqa: E402
from helpers.fake_tensorrt import FakeTensorRT  # noqa: E402
from helpers.fixed_profiles import FixedProfiles  # noqa: E402
from helpers.kept_engines import MADE  # noqa: E402
from smalti import open_bundle  # noqa: E402
from smalti.verification.engines.pruning import Rule, prune  # noqa: E402
from smalti_export.engines import job  # noqa: E402
from smalti_export.engines.build import build_engines  # noqa: E402
from smalti_export.engines.shipping import build_zip  # noqa: E402
from smalti_export.engines.toolkit import PortableToolkit  # noqa: E402

MOST = 100
COMPONENTS = ["denoiser", "decoder"]
INSTALLED = {"rtx": "10.13.0", "trt": ""}


def tools() -> PortableToolkit:
    return PortableToolkit(["sm_86", "sm_120"], FakeTensorRT(portable=True))


def act(mode: str, bundle: Path, cache: Path) -> None:
    """Do what is to be killed, with the cache in the folder ``cache``."""
    os.environ["SMALTI_CACHE_DIR"] = str(cache)
    job.make_profiles = FixedProfiles()
    if mode == "build":
        build_engines(open_bundle(bundle), tools(), precision="fp32", components=COMPONENTS)
    elif mode == "zip":
        build_zip(open_bundle(bundle), tools(), cache / "out.zip", precision="fp32", components=COMPONENTS)
    elif mode == "prune":
        prune(INSTALLED, Rule())
    else:  # a run of an engine whose kernels are kept, and were compiled again
        used(MADE, b"new kernels")


def die_before(moment: int) -> None:
    """Kill this process before its change number ``moment`` of a file or a folder, which counts from 0."""
    left = moment

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR) or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)


def main(mode: str, bundle: Path, cache: Path) -> None:
    for moment in range(MOST):
        copy = Path(shutil.copytree(cache, cache.with_name(f"{mode}-{moment:02}")))
        child = os.fork()
        if not child:
            die_before(moment)
            act(mode, bundle, copy)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return
    sys.exit(f"{mode} made more than {MOST} changes")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
