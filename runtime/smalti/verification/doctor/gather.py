"""Find out what a machine has. Nothing in here raises: what cannot be read is noted in the facts."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from smalti.backends.onnxruntime_options import LIBRARY
from smalti.bundle.engine_folder import engine_caches
from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
from smalti.errors import BundleError, OutputError
from smalti.system.files import check_folder
from smalti.system.platform import cache_folder, installation
from smalti.verification.doctor.children import Child
from smalti.verification.doctor.facts import (
    Driver,
    Engine,
    Folder,
    Installed,
    Machine,
    OnnxRuntime,
    Processor,
    Python,
    Shell,
    System,
    Vulkan,
)
from smalti.verification.doctor.hardware import find_adapters, find_processor
from smalti.verification.doctor.libraries import find_cuda_libraries
from smalti.verification.engines.listing import engines_here, engines_of_bundle, installed_versions
from smalti.version import __version__
from smalti_kernels.impl.cuda.prebuilt import read_manifest
from smalti_kernels.platform import DRIVER_LIBRARIES, THREADS_VARIABLE, VISIBLE, usable_cores

VULKAN_LIBRARIES: Final = ("vulkan-1.dll",) if sys.platform == "win32" else ("libvulkan.so.1",)
PACKAGES: Final = re.compile(r"(onnxruntime|ort-nightly|nvidia|tensorrt)(-.*)?")
"""Names of packages that are told."""
VARIABLES: Final = ("SMALTI_PROVIDER", THREADS_VARIABLE, "SMALTI_CACHE_DIR")
"""Smalti's own variables, but for secrets."""
MOST_FILES: Final = 20_000
"""Files that are looked at for the size of caches."""

Read = TypeVar("Read")


class Asker:
    """Reads facts, and notes what could not be read."""

    def __init__(self) -> None:
        """Begin without a problem."""
        self.problems: list[str] = []

    def read(self, what: str, read: Callable[[], Read], otherwise: Read) -> Read:
        """Return what ``read`` returns, or ``otherwise`` where it raises anything."""
        try:
            return read()
        except Exception as error:
            self.problems.append(f"{what}: {type(error).__name__}: {error}")
            return otherwise

    def told(self, what: str, child: Child, kind: type[Read]) -> Read:
        """Return a probe's answer as one of the facts."""
        answer = child.answer()
        broken = msgspec.convert({"problem": str(answer.get("problem"))}, kind)
        return self.read(what, lambda: msgspec.convert(answer, kind), broken)


def gather(
    driver: Iterable[str] = DRIVER_LIBRARIES,
    vulkan: Iterable[str] = VULKAN_LIBRARIES,
    named: Iterable[Bundle] = (),
) -> Machine:
    """Return the facts. ``driver`` and ``vulkan`` are the names of their libraries, first choice first.

    The engines of bundles that are ``named`` are facts too.
    """
    asker = Asker()
    children = Child("driver", *driver), Child("inference", LIBRARY), Child("vulkan", *vulkan)
    cores = asker.read("cores", usable_cores, 1)
    bundles = asker.read("embedded bundles", embedded_bundles, {})
    names = asker.read("embedded bundles", partial(_digests, bundles), dict[str, str]())
    opened = list(named)
    others: dict[str, str] = {}
    for bundle in opened:
        if bundle.digest not in names:  # a copy of an embedded one goes by its name
            others.setdefault(bundle.digest, str(bundle.path))
    engines, broken = asker.read("engines", partial(_engines, opened, others | names), ((), ()))
    return Machine(
        python=_python(asker),
        system=asker.read("system", _system, System(sys.platform, "", "", "", "", "posix")),
        smalti=asker.read("smalti's package", _installed, Installed(__version__, "", (), "", False)),
        processor=asker.read("processor", lambda: find_processor(cores), Processor("", cores, None)),
        caches=asker.read("caches", _caches, ()),
        adapters=asker.read("graphics cards", find_adapters, ()),
        visible=os.environ.get(VISIBLE),
        variables=tuple((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)),
        kernels=asker.read("prebuilt kernels", _kernels, ()),
        packages=asker.read("installed packages", installed_packages, ()),
        cuda_libraries=asker.read("CUDA libraries", find_cuda_libraries, ()),
        bundles=tuple(bundles),
        named=tuple(others.values()),
        engines=engines,
        broken_lists=broken,
        unwritable=asker.read("caches", _unwritable, ""),
        driver=asker.told("driver", children[0], Driver),
        onnxruntime=asker.told("ONNX Runtime", children[1], OnnxRuntime),
        vulkan=asker.told("Vulkan", children[2], Vulkan),
        problems=tuple(asker.problems),  # last, when all has been read
    )


def _python(asker: Asker) -> Python:
    found = shutil.which("python")
    command = "python" if found and os.path.normcase(found) == os.path.normcase(sys.executable) else sys.executable
    has_pip = asker.read("pip", lambda: util.find_spec("pip") is not None, True)
    version = sys.version_info
    bits = struct.calcsize("P") * 8
    return Python((version.major, version.minor, version.micro), bits, sys.executable, command, has_pip)


def _system() -> System:
    libc, libc_version = platform.libc_ver() if sys.platform == "linux" else ("", "")
    if sys.platform == "linux" and not libc:
        libc = "musl" if any(Path("/lib").glob("ld-musl-*")) else ""
    return System(platform.system(), platform.release(), platform.machine(), libc, libc_version, _shell())


def _shell() -> Shell:
    """Return the kind of shell: of those on Windows only cmd sets PROMPT."""
    if sys.platform != "win32":
        return "posix"
    return "cmd" if "PROMPT" in os.environ else "powershell"


def _installed() -> Installed:
    try:
        found = metadata.distribution("smalti")
    except metadata.PackageNotFoundError:
        return Installed(__version__, "", (), "", False)
    extras = found.metadata.get_all("Provides-Extra") or []
    return Installed(__version__, found.metadata["Requires-Python"] or "", tuple(extras), *installation())


def _caches() -> tuple[Folder, ...]:
    root = cache_folder()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return tuple(_measured(path) for path in (root, *folders))


def _measured(path: Path) -> Folder:
    total = seen = 0
    for folder, _, files in os.walk(path):
        for file in files:
            if (seen := seen + 1) > MOST_FILES:
                return Folder(str(path), total, whole=False)
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except OSError:  # it went away meanwhile
                continue
    return Folder(str(path), total)


def _kernels() -> tuple[str, ...]:
    return tuple(sorted({target for target, _ in read_manifest().entries}))


def installed_packages() -> tuple[tuple[str, str], ...]:
    """Return name and version of the installed packages that bring ONNX Runtime, CUDA and TensorRT."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        # Reading the metadata of all packages takes long, and the name of their folder has the name too.
        folder = getattr(one, "_path", None)
        start = re.sub(r"[-_.]+", "-", Path(folder).name.lower()) if folder is not None else one.name.lower()
        if PACKAGES.match(start):
            name = re.sub(r"[-_.]+", "-", one.name).lower()
            if PACKAGES.fullmatch(name):
                found.setdefault(name, one.version)
    return tuple(sorted(found.items()))


def _unwritable() -> str:
    """Return why nothing can be written to the cache; a file is made and removed, to find out."""
    try:
        check_folder(cache_folder())
    except OutputError as error:
        return str(error)
    return ""


def _digests(bundles: Mapping[str, Path]) -> dict[str, str]:
    """Return the names of embedded bundles by their digests."""
    names = dict[str, str]()
    for name, path in bundles.items():
        with contextlib.suppress(BundleError):  # it is among what is wrong
            names[open_bundle(path).digest] = name
    return names


def _engines(named: Iterable[Bundle], names: Mapping[str, str]) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Return the engines of bundles and all in the cache, and what is wrong with lists; ``names`` are by digest."""
    found, wrong = engines_here(installed_versions())
    for bundle in named:
        engines, problems = engines_of_bundle(bundle, installed_versions())
        found += [one for one in engines if one.engine not in [other.engine for other in found]]
        wrong += [one for one in problems if one not in wrong]
    engines = tuple(
        Engine(
            bundle=names.get(one.digest) or f"{one.bundle} ({one.digest[:12]})",
            component=one.engine.record.component,
            precision=one.engine.record.precision,
            runtime=one.engine.record.runtime,
            version=one.engine.record.version,
            targets=one.engine.record.targets,
            device=one.engine.record.device,
            cached=one.engine.root.parent == engine_caches(),
            bytes=one.engine.record.engine.bytes,
            state=one.state,
            note=one.note,
        )
        for one in found
    )
    return engines, tuple(wrong)
