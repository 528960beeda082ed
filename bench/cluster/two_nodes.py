"""A cluster of Ray with two nodes on this machine's loopback, to try commands on: it starts, runs one, and stops.

python bench/cluster/two_nodes.py [--cpus 1] -- smalti batch generate --count 100 --address auto -o pictures

Clients and nodes show a token that is made for it, there is no dashboard, and nobody is told that Ray is used.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = ("127.0.0.1", "127.0.0.2")
STORE = 80 * 2**20
"""Bytes of each node's object store; batches send receipts only."""
PATIENCE = 60
"""Seconds that a node may take to start."""


class TwoNodes:
    """The cluster, as a context. What was started is stopped at its end, and nothing else."""

    def __init__(self, cpus: int = 1, **variables: str) -> None:
        """Take how many CPUs each node offers, and variables of the environment for all that runs there."""
        self.cpus = cpus
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets must be short
        with socket.create_server((HOSTS[0], 0)) as free:
            self.address = f"{HOSTS[0]}:{free.getsockname()[1]}"
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32), "utf-8")
        self.environment = {
            **os.environ,
            **variables,
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "500",  # a node that is gone is missed within two seconds, not fifteen
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TwoNodes:
        """Start both nodes."""
        try:
            self._start(
                "--head",
                "--include-dashboard=false",
                f"--port={self.address.rpartition(':')[2]}",
                f"--temp-dir={self.folder}/s",
                host=0,
            )
            self._start(f"--address={self.address}", host=1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what was started."""
        self.stop()

    def _start(self, *more: str, host: int) -> None:
        """Start a node, and wait until it says that it runs."""
        ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
        log = self.folder / f"node-{host}.log"
        options = [f"--node-ip-address={HOSTS[host]}", f"--num-cpus={self.cpus}", f"--object-store-memory={STORE}"]
        command = [ray, "start", *more, *options, "--disable-usage-stats", "--block"]
        with log.open("wb") as output:
            self.nodes.append(
                subprocess.Popen(command, stdout=output, stderr=output, env=self.environment, start_new_session=True)
            )
        until = time.monotonic() + PATIENCE
        while b"Ray runtime started" not in log.read_bytes():
            if self.nodes[-1].poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"a node of Ray did not start: {log.read_text('utf-8', 'replace')[-800:]}")
            time.sleep(0.05)

    def kill(self, node: int) -> None:
        """Kill a node with all that runs on it, as a machine that loses its power: 0 is the first."""
        for pid in processes_of(self.nodes[node].pid):
            end(pid, signal.SIGKILL)
        self.nodes[node].wait()

    def stop(self) -> None:
        """Stop both nodes, the second one first."""
        for node in reversed(self.nodes):
            own = processes_of(node.pid)
            node.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(10)
            for pid in (*own, node.pid):
                end(pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session: each node is started in one of its own."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text("utf-8").rpartition(")")[2].split()[3]) == session:
                found.append(int(status.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def end(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    """Run a command on the cluster; its exit code becomes ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=int, default=1, help="that each node offers")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with TwoNodes(asked.cpus) as cluster:
        print(f"a cluster of two nodes at {cluster.address}", file=sys.stderr)
        code = subprocess.call(asked.command, env=cluster.environment)
    sys.exit(code)


if __name__ == "__main__":
    main()
