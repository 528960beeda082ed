"""Two machines on this one: network namespaces joined by a cable where that is allowed, else two loopback addresses."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@dataclass(frozen=True)
class Machine:
    """One of the two."""

    address: str
    interface: str
    """Name of the network interface that leads to the other machine."""
    namespace: str
    """Name of its network namespace; empty where it has none."""
    folder: Path
    """Its own disk: caches and temporary files."""

    def start(
        self, command: Sequence[str | Path], log: Path, shared: Path | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a command of one thread, whose output goes to ``log``.

        A machine with a namespace sees ``shared`` without the right to write there, if one is named.
        """
        enter: list[str | Path] = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        if self.namespace and shared is not None:
            enter += ["sh", "-c", READ_ONLY, shared]
        own = {"SMALTI_CACHE_DIR": str(self.folder / "cache"), "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}
        own["GLOO_SOCKET_IFNAME"] = self.interface
        with log.open("wb") as output:
            return subprocess.Popen(
                [*enter, *command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **own, **environment}
            )


@contextlib.contextmanager
def two_machines(folder: Path) -> Generator[tuple[Machine, Machine]]:
    """Context of two machines whose disks lie below ``folder``."""
    disks = folder / "machine-0", folder / "machine-1"
    for disk in disks:
        disk.mkdir(parents=True)
    names = [f"smalti-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        if joined(names):
            yield (
                Machine("10.213.0.1", "cable", names[0], disks[0]),
                Machine("10.213.0.2", "cable", names[1], disks[1]),
            )
        else:
            yield Machine("127.0.0.1", "lo", "", disks[0]), Machine("127.0.0.2", "lo", "", disks[1])
    finally:
        for name in names:
            if shutil.which("ip"):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def joined(names: Sequence[str]) -> bool:
    """Make two network namespaces with a cable between them; False where this user or this kernel may not."""
    if shutil.which("ip") is None:
        return False
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip link add cable netns {names[0]} type veth peer name cable netns {names[1]}")
    for number, name in enumerate(names, 1):
        commands += [
            f"ip -n {name} address add 10.213.0.{number}/24 dev cable",
            f"ip -n {name} link set cable up",
            f"ip -n {name} link set lo up",
        ]
    # What the machines are not to write is mounted once more, in a namespace of its own.
    commands.append(f"ip netns exec {names[0]} sh -c 'mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp'")
    return all(subprocess.run(command, shell=True, capture_output=True).returncode == 0 for command in commands)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
