"""How a server is set up: where it listens, who may ask, and how much."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from smalti.errors import UsageError
from smalti.families.limits import Limits
from smalti.system.platform import reachable

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN: Final = 16
LONGEST_TOKEN_FILE: Final = 4096


def default_limits() -> Limits:
    """Return what one request may ask for: 16 images of 2048x2048 pixels at most, 1000 steps."""
    return Limits(count=16, steps=1000, pixels=2048 * 2048, all_pixels=16 * 2048 * 2048)


@dataclass(frozen=True)
class Serving:
    """Where a server listens, who may ask, and how much."""

    host: str = "127.0.0.1"
    """An address of this machine. Any but a loopback address needs a token."""
    port: int = 8000
    """0 .. 65535; 0 takes any that is free."""
    token: str | None = None
    """What a client has to show, at least 16 characters; None where any program of this machine may ask."""
    allow_hosts: tuple[str, ...] = ()
    """Names, without ports, by which clients may call this server besides its own addresses."""
    max_queue: int = 16
    """Requests that are accepted at a time, those under way included; others are told to come again."""
    max_batch: int | None = None
    """Images that requests of equal settings may share a batch for; None lets the provider say: 1 on a CPU, where
    batches gain nothing, and 8 on a GPU."""
    timeout: float = 60.0
    """Seconds that a request may take, its wait included."""
    drain: float = 30.0
    """Seconds that accepted requests have when the server is told to end."""
    max_body: int = 32 * 2**20
    """Bytes of a request."""
    limits: Limits = field(default_factory=default_limits)

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range, and for an open address without a token."""
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port}: allowed are 0 .. 65535; 0 takes any that is free")
        for name in ("max_queue", "max_batch", "max_body"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: a whole number, at least 1, is needed")
        for name in ("timeout", "drain"):
            if not (0 < (value := getattr(self, name)) < math.inf):
                raise UsageError(f"{name} {value}: a number of seconds above 0 is needed")
        if self.token is not None and not (
            len(self.token) >= SHORTEST_TOKEN
            and self.token.isascii()
            and self.token.isprintable()
            and not set(self.token) & set(' ",;\\')
        ):
            raise UsageError(
                f"token: at least {SHORTEST_TOKEN} printable ASCII characters without spaces, quotes, commas, "
                "semicolons and backslashes are needed, such as those of: openssl rand -hex 24"
            )
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"host {self.host} can be reached from other machines, and so needs a token: --token-file FILE; or "
                "listen on 127.0.0.1"
            )
        for name in self.allow_hosts:
            if not name or set(name) & set("/:*@ ") or name != name.strip():
                raise UsageError(
                    f"allow_host {name!r}: the name of a host is needed, without port, scheme or asterisk, such as "
                    "pictures.example.org"
                )

    def knows_host(self, name: str) -> bool:
        """Return whether clients may call this server by ``name``, a host without its port.

        A name that is not listed may be one that a foreign page let point to this machine. An address cannot be made to
        point elsewhere.
        """
        name = name.lower().strip("[]").rstrip(".")
        if name in (*LOOPBACK_NAMES, self.host.lower(), *(one.lower().rstrip(".") for one in self.allow_hosts)):
            return True
        address = _address(name)
        return address is not None and (not is_loopback(self.host) or address == _address(self.host))


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach ``host``."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() == "localhost"


def read_token(path: Path) -> str:
    """Return the token in a file, without white space around it. Raises UsageError where it cannot be read."""
    try:
        with reachable(path).open("rb") as file:
            content = file.read(LONGEST_TOKEN_FILE + 1)
        if len(content) <= LONGEST_TOKEN_FILE and (token := content.decode().strip()):
            return token
    except OSError as error:
        raise UsageError(f"token file {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        pass
    raise UsageError(f"token file {path}: one line of text is needed, of at most {LONGEST_TOKEN_FILE} bytes")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
