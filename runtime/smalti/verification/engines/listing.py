"""Every engine of a bundle, or of this machine, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from smalti.backends.tensorrt.bindings import installed_version
from smalti.backends.tensorrt.choice import NAMES, PACKAGES, from_another_graph
from smalti.bundle.engine_folder import REBUILD, KeptEngine, cached_folders, engine_cache, engines_of, read_folder
from smalti.bundle.engines import EngineRecord, Runtime
from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
from smalti.errors import BundleError

State = Literal["ok", "damaged", "other graph", "other version", "not installed"]
RUNTIMES: Final[tuple[Runtime, ...]] = ("rtx", "trt")
Installed = Mapping[Runtime, str]
"""Version of each runtime that is installed; empty for none."""


@dataclass(frozen=True)
class Listed:
    """An engine, and whether it can be used."""

    bundle: str
    """Name of its bundle."""
    digest: str
    """Digest of its bundle."""
    engine: KeptEngine
    installed: str
    """Version of its runtime that is installed; empty for none."""
    state: State
    note: str
    """Why it cannot be used; empty where it can."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        record = self.engine.record
        return {
            "bundle": self.bundle,
            "digest": self.digest,
            "component": record.component,
            "precision": record.precision,
            "runtime": record.runtime,
            "version": record.version,
            "installed": self.installed or None,
            "targets": list(record.targets),
            "device": record.device or None,
            "system": record.system or None,
            "bytes": record.engine.bytes,
            "path": self.engine.path,
            "state": self.state,
            "note": self.note,
        }


def installed_versions() -> dict[Runtime, str]:
    """Return the installed version of each runtime, without loading any; empty for none."""
    return {runtime: installed_version(runtime) for runtime in RUNTIMES}


def engines_of_bundle(bundle: Bundle, installed: Installed) -> tuple[list[Listed], list[str]]:
    """Return a bundle's engines, those that it carries first; and what is wrong with lists that cannot be used."""
    kept, wrong = engines_of(bundle)
    return [_listed(one, bundle.manifest.name, bundle.digest, bundle, installed) for one in kept], wrong


def engines_here(installed: Installed) -> tuple[list[Listed], list[str]]:
    """Return the engines of the embedded bundles, and all in the cache; and what is wrong with lists.

    The cache does not know where a bundle lies, so the graphs of bundles that are not embedded are not compared.
    """
    found: list[Listed] = []
    wrong: list[str] = []
    seen = set[str]()
    for name in embedded_bundles():
        try:
            bundle = open_bundle(name)
        except BundleError as error:
            wrong.append(str(error))
            continue
        engines, problems = engines_of_bundle(bundle, installed)
        found += engines
        wrong += problems
        seen.add(engine_cache(bundle).name)
    for folder in cached_folders():
        if folder.name in seen:
            continue
        try:
            listed = read_folder(folder)
        except BundleError as error:
            wrong.append(str(error))
            continue
        for record in listed.engines if listed else ():
            assert listed is not None
            one = KeptEngine(record, folder, "")
            found.append(_listed(one, listed.bundle, listed.bundle_digest, None, installed))
    return found, wrong


def _listed(one: KeptEngine, name: str, digest: str, bundle: Bundle | None, installed: Installed) -> Listed:
    version = installed.get(one.record.runtime, "")
    return Listed(name, digest, one, version, *judge(one, bundle, version))


def judge(one: KeptEngine, bundle: Bundle | None, installed: str) -> tuple[State, str]:
    """Return whether an engine can be used with the installed version of its runtime, and why not.

    Without a ``bundle`` its graph is not compared.
    """
    try:
        one.check()
    except BundleError as error:
        return "damaged", str(error)
    if bundle is not None and (why := from_another_graph(one.record, bundle)):
        return "other graph", why
    name = NAMES[one.record.runtime]
    if not installed:
        return "not installed", f"{name} is not installed"
    if installed != one.record.version:
        pin = f"{PACKAGES[one.record.runtime]}=={one.record.version}"
        built = f"built with {name} {one.record.version}, and {installed} is installed"
        return "other version", f"{built}; pip install {pin}, or {REBUILD}"
    return "ok", ""


def install(runtime: Runtime, version: str) -> str:
    """Return the line that installs what runs engines of a version."""
    return f'pip install "smalti[cli,{runtime}]" {PACKAGES[runtime]}=={version}'


def installs(records: Iterable[EngineRecord]) -> list[str]:
    """Return the lines that install what runs some engines, one for each version."""
    found = {(one.runtime, one.version) for one in records}
    return [install(runtime, version) for runtime in RUNTIMES for kind, version in sorted(found) if kind == runtime]
