"""The interface of a backend: it opens sessions that run a bundle's graphs, and it draws tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast, get_args

from numpy.typing import NDArray

from smalti.backends.signatures import Signature
from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import UsageError
from smalti_kernels import Draw, sample

RequestedPrecision = Literal["auto", "fp32", "fp16", "int8"]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """One graph of a bundle, ready to run."""

    @property
    def inputs(self) -> tuple[Signature, ...]:
        """The graph's own inputs."""
        ...

    @property
    def outputs(self) -> tuple[Signature, ...]:
        """The graph's own outputs."""
        ...

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph on named inputs; return its outputs in the graph's order.

        Inputs that the graph does not have are ignored. Raises BundleError when it cannot run.
        """
        ...


@dataclass(frozen=True)
class ProviderReport:
    """The provider and the precision that were requested, those in use, and the reason."""

    requested: str
    actual: str
    device: str
    requested_precision: str
    precision: dict[str, Precision]
    """Precision of each component."""
    why: str
    runtime: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)

    def raised(self, role: Role, why: str) -> ProviderReport:
        """Return the report with a component in fp32, and the reason."""
        return replace(self, precision={**self.precision, role: "fp32"}, why=f"{self.why}; {role} in fp32: {why}")


class Backend(ABC):
    """One kind of machine, and the library that runs graphs on it."""

    name: ClassVar[str]
    """Its name as a ``provider``."""
    device: str
    """The processor, in words."""
    runtime: str
    """Name and version of the library."""
    threads: int
    """Number of cores that it uses."""
    certified: Precision = "int8"
    """The precision that ``auto`` takes where a bundle has it. Every variant of a bundle met its tolerance."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    """Those that it runs."""

    @abstractmethod
    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        """Load a component and return it ready to run. Raises BundleError for a graph that cannot be run."""

    def has(self, bundle: Bundle, role: Role, precision: Precision) -> bool:
        """Return whether it can open a component in a precision."""
        return precision in self.precisions and precision in bundle.precisions(role)

    def sample(self, *arguments: Any, **named: Any) -> Draw:
        """Draw tokens from logits, bit for bit as :func:`smalti_kernels.sample` does."""
        return sample(*arguments, **named)

    def resolve_precision(self, bundle: Bundle, requested: str) -> tuple[dict[str, Precision], str]:
        """Choose the precision of each component; return it by role, and the reason in words.

        ``auto`` takes :attr:`certified`. A component that lacks the precision runs in fp32.

        Raises UsageError when the precision is unknown, or when neither the prior nor the decoder comes in it.
        """
        if requested not in get_args(RequestedPrecision):
            raise UsageError(f"precision {requested!r}: allowed are {', '.join(get_args(RequestedPrecision))}")
        wanted = self.certified if requested == "auto" else cast(Precision, requested)
        roles = tuple(bundle.manifest.components)
        have = [role for role in roles if wanted in bundle.precisions(role)]
        if requested != "auto" and not {PRIOR_ROLES[bundle.manifest.family], "decoder"} & set(have):
            there = sorted({precision for role in roles for precision in bundle.precisions(role)})
            raise UsageError(f"{bundle.path} has no {wanted} variant; it comes in {', '.join(there)}")
        chosen: dict[str, Precision] = {role: wanted if role in have else "fp32" for role in roles}
        others = [role for role in roles if role not in have]
        why = f"{wanted} is certified for {', '.join(have)}" if have else f"no {wanted} variant is certified"
        return chosen, why + (f"; {', '.join(others)} in fp32" if others and have else "")
