"""How a worker of a batch opens its bundle, and what its rows say of what computes."""

from __future__ import annotations

from dataclasses import dataclass

from smalti.backends.base import Backend
from smalti.batch.plan import Plan
from smalti.bundle.manifest import PRIOR_ROLES, Role
from smalti.bundle.reader import open_bundle
from smalti.drawing.generator import Generator
from smalti.errors import BundleError
from smalti.loading.load import load
from smalti.verification.doctor.hardware import find_processor
from smalti.version import __version__
from smalti_kernels.platform import usable_cores


@dataclass(frozen=True)
class Loading:
    """What :func:`smalti.load` is given in each worker."""

    bundle: str | None
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = 1
    """Cores of each worker."""
    backend: Backend | None = None
    """In place of a provider; it is pickled to the workers."""


@dataclass(frozen=True)
class Kind:
    """What computes: rows of equal kinds are equal bit for bit."""

    provider: str
    precision: str
    processor: str

    def __str__(self) -> str:
        """Return it as reports tell it."""
        return f"{self.provider} {self.precision} on {self.processor}"


def open_generator(loading: Loading, digest: str) -> Generator:
    """Load the bundle of a batch. Raises BundleError where it is another one here, and as :func:`smalti.load` does."""
    bundle = open_bundle(loading.bundle)
    if bundle.digest != digest:
        raise BundleError(
            f"{bundle.path} is another bundle than the batch's (digest {bundle.digest[:12]}, and there {digest[:12]}); "
            "name the same one, with the same path on every machine"
        )
    if loading.backend is not None:
        return load(bundle, precision=loading.precision, backend=loading.backend)
    return load(bundle, loading.provider, loading.precision, loading.threads)


def kind_of(generator: Generator, plan: Plan) -> Kind:
    """Return what computes a batch here."""
    report, manifest = generator.report, generator.manifest
    roles: tuple[Role, ...] = ("encoder",)
    if plan.work == "generate":
        roles = PRIOR_ROLES[manifest.family], manifest.resolution(plan.options.get("resolution")).decoder
    chosen = {role: report.precision[role] for role in roles if role in report.precision}
    told = ", ".join(sorted(set(chosen.values())))
    if len(set(chosen.values())) > 1:
        told = ", ".join(f"{role} {precision}" for role, precision in chosen.items())
    return Kind(report.actual, told, _processor() if report.actual == "cpu" else report.device)


def said_in_rows(generator: Generator, plan: Plan) -> dict[str, str]:
    """Return the columns that say what computed a row."""
    kind = kind_of(generator, plan)
    return {
        "bundle": generator.bundle.digest,
        "provider": kind.provider,
        "precision": kind.precision,
        "processor": kind.processor,
        "smalti": __version__,
    }


def _processor() -> str:
    """Return the processor by its name and the instruction sets that decide how a network is rounded."""
    found = find_processor(usable_cores())
    return ", ".join([found.name or "unknown processor", *(found.instructions or ())])
