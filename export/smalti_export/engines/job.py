"""One engine that is to be built: the graph as the builder gets it, the sizes, and the record that it gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from smalti.bundle.engine_folder import OTHER_CACHE, KeptEngine
from smalti.bundle.engines import EngineRecord, Profile
from smalti.bundle.manifest import FileRecord, Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, EngineError, OutputError
from smalti.verification.engines.scratch import scratch_folder
from smalti_export.engines.graphs import for_tensorrt
from smalti_export.engines.profiles import make_profiles
from smalti_export.engines.toolkit import Toolkit
from smalti_export.engines.watching import Watch

MAGIC = {"rtx": b"vtrt"}
"""First bytes of an engine file, for runtimes where they are known."""


@dataclass(frozen=True)
class Job:
    """An engine that is to be built."""

    bundle: Bundle
    toolkit: Toolkit
    role: Role
    precision: Precision
    graph: bytes
    """The graph, changed for TensorRT."""
    profiles: tuple[dict[str, Profile], ...]

    def record(self, file: FileRecord) -> EngineRecord:
        """Return the record of an engine file that this job made, or would make."""
        toolkit = self.toolkit
        return EngineRecord(
            component=self.role,
            precision=self.precision,
            runtime=toolkit.runtime,
            version=toolkit.version,
            targets=toolkit.targets,
            device=toolkit.device,
            system=toolkit.system,
            engine=file,
            source_sha256=self.bundle.variant(self.role, self.precision).graph.sha256,
            built_sha256=hashlib.sha256(self.graph).hexdigest(),
            profiles=self.profiles,
        )

    def find(self, engines: Iterable[KeptEngine]) -> tuple[KeptEngine | None, list[str]]:
        """Return the engine that this job would make, where it is there and whole, and what is wrong with others.

        Engines have other bytes each time they are built, so all but the file is compared.
        """
        wrong: list[str] = []
        for one in engines:
            if one.record == self.record(one.record.engine):
                try:
                    one.check("it is not used")
                except BundleError as error:
                    wrong.append(str(error))
                else:
                    return one, wrong
        return None, wrong

    def replaces(self, old: EngineRecord) -> bool:
        """Whether an engine has no use beside this job's: that one is for the same, on all of its GPUs."""
        new = self.record(old.engine)
        same = ("component", "precision", "runtime", "device", "system")
        return all(getattr(old, name) == getattr(new, name) for name in same) and {*old.targets} <= {*new.targets}

    def build(self, watch: Watch) -> tuple[EngineRecord, bytes]:
        """Build the engine.

        Raises EngineError when the builder refuses the graph, BundleError when a file of weights is damaged,
        OutputError when there is no room for the builder's files.
        """
        variant = self.bundle.variant(self.role, self.precision)
        # Write checked copies: the parser opens files by path, which does not work inside a zip.
        with scratch_folder() as folder:
            graph = folder / f"{self.role}.{self.precision}.onnx"
            try:
                for file in variant.weights:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(self.bundle.read(file))
                    self.bundle.forget()
                graph.write_bytes(self.graph)
            except OSError as error:
                raise OutputError(
                    f"cannot write the builder's files to {folder}: {error.strerror or error}. {OTHER_CACHE}"
                ) from error
            plan = self.toolkit.build(graph, self.profiles, watch)
        runtime = self.toolkit.runtime
        if not plan.startswith(MAGIC.get(runtime, b"")) or not plan:
            raise EngineError(f"{runtime} {self.toolkit.version} made no engine of {variant.graph.file}; report it")
        digest = hashlib.sha256(plan).hexdigest()
        # The name contains the hash, so a new engine never overwrites a file that the list on disk names.
        name = f"{self.role}.{self.precision}.{digest[:12]}.{runtime}"
        return self.record(FileRecord(file=name, sha256=digest, bytes=len(plan))), plan


def prepare(bundle: Bundle, toolkit: Toolkit, role: Role, precision: Precision) -> Job:
    """Prepare the engine of a component.

    Raises BundleError when the graph is damaged, EngineError when it is not an ONNX graph or has sizes that nothing
    says the range of.
    """
    manifest, variant = bundle.manifest, bundle.variant(role, precision)
    profiles = make_profiles(role, manifest.components[role], manifest.latent, manifest.resolution_of(role))
    content = bundle.read(variant.graph.file)
    bundle.forget()
    try:
        proto = for_tensorrt(onnx.ModelProto.FromString(content))
    except Exception as error:  # protobuf's errors have no public base class
        raise EngineError(f"{bundle.path}: {variant.graph.file} is not an ONNX graph: {error}") from error
    return Job(bundle, toolkit, role, precision, proto.SerializeToString(deterministic=True), profiles)
