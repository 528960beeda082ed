"""Build a bundle's engines into a folder; the folder changes only after every engine is built."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from smalti.bundle import engines as engine_records
from smalti.bundle.engines import ENGINES, EngineRecord, Engines
from smalti.bundle.manifest import FileRecord, Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, Bundle
from smalti.errors import EngineError, OutputError, UsageError
from smalti.files import check_folder, write_whole
from smalti_export.engines.graphs import for_tensorrt
from smalti_export.engines.profiles import make_profiles
from smalti_export.engines.toolkit import Toolkit

MAGIC = {"rtx": b"vtrt"}
"""First bytes of an engine file, for runtimes where they are known."""
Say = Callable[[str], None]


def build_engines(
    bundle: Bundle,
    toolkit: Toolkit,
    output: Path,
    *,
    precision: Precision = "fp16",
    components: Sequence[Role] | None = None,
    say: Say = lambda line: None,
) -> Engines:
    """Build engines of a bundle's components and write them, with ``engines.json``, to the folder ``output``.

    ``components`` defaults to all that come in ``precision``. Other engines of the same bundle in the folder stay.
    After an interrupt at any moment, the folder's list is the old one or the new one, and every file that it names is
    there.

    Raises UsageError when a target cannot run the precision, when the bundle lacks a component, or when the folder
    holds something else; BundleError when the bundle or the list is damaged; EngineError when a builder refuses a
    graph; OutputError when writing fails.
    """
    check_precision(toolkit, precision)
    there: list[Role] = [role for role in bundle.manifest.components if precision in bundle.precisions(role)]
    roles: list[Role] = there if components is None else list(dict.fromkeys(components))
    foreign = [role for role in roles if role not in there]
    if not roles or foreign:
        wanted = f"{foreign[0]} in {precision}" if roles else f"component in {precision}"
        raise UsageError(f"{bundle.path} has no {wanted}; in {precision} there are: {', '.join(there) or 'none'}")
    if (output / MANIFEST).exists():
        raise UsageError(f"{output} is a bundle; name a folder of engines, such as {output / ENGINES_FOLDER}")
    check_folder(output)
    kept = _kept(bundle, output)
    built: list[EngineRecord] = []
    plans: dict[str, bytes] = {}
    for role in roles:
        say(f"{role} {precision}: building for {', '.join(toolkit.targets)} with {toolkit.runtime} {toolkit.version}")
        record, plan = _build(bundle, toolkit, role, precision)
        built.append(record)
        plans[record.engine.file] = plan
        say(f"{role} {precision}: {len(plan) / 1e6:.1f} MB")
    replaced = {(record.component, record.precision, record.runtime) for record in built}
    stay = [old for old in kept if (old.component, old.precision, old.runtime) not in replaced]
    engines = Engines(
        schema_version=engine_records.SCHEMA_VERSION,
        bundle=bundle.manifest.name,
        bundle_digest=bundle.digest,
        engines=(*stay, *built),
    )
    write_engines(output, engines, plans)
    return engines


def check_precision(toolkit: Toolkit, precision: Precision) -> None:
    """Raise UsageError when a target cannot run the precision; the message says why and what to do."""
    if precision == "int8":
        raise UsageError("precision int8: its scales are chosen for CPUs; build engines in fp16, or fp32")
    if precision == "fp32" and toolkit.runtime == "rtx" and "sm_75" in toolkit.targets:
        raise UsageError(
            "precision fp32 for sm_75: TensorRT-RTX has no fp32 matrix product for Turing. Build it with --precision "
            "fp16, which its tensor cores run fastest, or leave sm_75 out of the targets"
        )


def _build(bundle: Bundle, toolkit: Toolkit, role: Role, precision: Precision) -> tuple[EngineRecord, bytes]:
    variant = bundle.variant(role, precision)
    manifest = bundle.manifest
    profiles = make_profiles(role, manifest.components[role], manifest.latent, manifest.resolution_of(role))
    # Write checked copies: the parser opens files by path, which does not work inside a zip.
    with tempfile.TemporaryDirectory(prefix="smalti-engine-") as name:
        folder = Path(name)
        for file in variant.weights:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(bundle.read(file))
        content = bundle.read(variant.graph.file)
        try:
            proto = for_tensorrt(onnx.ModelProto.FromString(content))
        except Exception as error:  # protobuf's errors have no public base class
            raise EngineError(f"{bundle.path}: {variant.graph.file} is not an ONNX graph: {error}") from error
        bundle.forget()
        graph = folder / f"{role}.{precision}.onnx"
        graph.write_bytes(proto.SerializeToString(deterministic=True))
        plan = toolkit.build(graph, profiles)
    magic = MAGIC.get(toolkit.runtime, b"")
    if not plan.startswith(magic) or not plan:
        raise EngineError(f"{toolkit.runtime} {toolkit.version} made no engine of {variant.graph.file}; report it")
    digest = hashlib.sha256(plan).hexdigest()
    # The name contains the hash, so a new engine never overwrites a file that the list on disk names.
    file = FileRecord(file=f"{role}.{precision}.{digest[:12]}.{toolkit.runtime}", sha256=digest, bytes=len(plan))
    record = EngineRecord(
        component=role,
        precision=precision,
        runtime=toolkit.runtime,
        version=toolkit.version,
        targets=toolkit.targets,
        engine=file,
        source_sha256=variant.graph.sha256,
        profiles=profiles,
    )
    return record, plan


def _kept(bundle: Bundle, output: Path) -> tuple[EngineRecord, ...]:
    """Engines of this bundle that are already in the folder. Raises UsageError when they belong to another bundle."""
    try:
        engines = engine_records.decode((output / ENGINES).read_bytes(), str(output))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if engines.bundle_digest != bundle.digest:
        raise UsageError(
            f"{output} holds engines of another bundle (or of this one before it was exported again): "
            f"{engines.bundle}. Name another folder, or delete this one first"
        )
    return engines.engines


def write_engines(output: Path, engines: Engines, plans: dict[str, bytes]) -> None:
    """Write new engines, then the list that names them, and then remove engines that it no longer names."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        before = _listed(output)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    for file, plan in plans.items():
        write_whole(output / file, plan)
    write_whole(output / ENGINES, engine_records.encode(engines))
    for file in before - {record.engine.file for record in engines.engines}:
        with contextlib.suppress(OSError):
            (output / file).unlink()


def _listed(output: Path) -> set[str]:
    """Files that the folder's current list names."""
    if not (output / ENGINES).is_file():
        return set()
    raw = (output / ENGINES).read_bytes()
    return {record.engine.file for record in engine_records.decode(raw, str(output)).engines}
