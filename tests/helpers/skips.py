"""Continuous integration counts a skipped test as a failure, unless ``.ci/skips`` lists it with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Allowed:
    """One line of the list: tests whose id matches ``pattern`` may be skipped, for ``reason``."""

    pattern: str
    reason: str


def read_allowed(text: str) -> list[Allowed]:
    """Parse lines of ``PATTERN: REASON``; empty lines and those that start with # do not count.

    A pattern is a test's id in which ``*`` stands for anything. Raises ValueError for a line without a reason.
    """
    lines: list[Allowed] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(": ")
        if not reason.strip():
            raise ValueError(f"line {number} gives no reason: write PATTERN: REASON")
        lines.append(Allowed(pattern.strip(), reason.strip()))
    return lines


def unlisted(skipped: dict[str, str], allowed: list[Allowed]) -> dict[str, str]:
    """Those of the skipped tests (reasons by id) that no line allows."""
    return {
        name: reason for name, reason in skipped.items() if not any(fnmatchcase(name, line.pattern) for line in allowed)
    }


class SkipGuard:
    """A pytest plugin that fails the session when a test was skipped that the list in ``file`` does not allow."""

    def __init__(self, file: Path) -> None:
        self.allowed = read_allowed(file.read_text())
        self.file = file
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that was skipped as a whole."""
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what must not be skipped."""
        for name, reason in unlisted(self.skipped, self.allowed).items():
            terminalreporter.write_line(f"SKIPPED, but not listed in {self.file}: {name}: {reason}", red=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success into failure."""
        if unlisted(self.skipped, self.allowed) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _note(self, name: str, where: object) -> None:
        self.skipped[name] = str(where[2]) if isinstance(where, tuple) else str(where)
