"""What the library logs while a command runs: told on stderr, as far as ``$SMALTI_LOG`` or the terminal ask for it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Generator
from typing import Final

from smalti.cli.escape import in_place, printable_lines
from smalti.cli.streams import tell
from smalti.errors import UsageError

VARIABLE: Final = "SMALTI_LOG"
LEVELS: Final = ("debug", "info", "warning", "error", "off")


class Told(logging.Handler):
    """Tells each record in a line of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. One that cannot be put into words is told by logging itself."""
        try:
            # A terminal may show a line of progress, which is to be gone.
            clear = in_place("", sys.stderr) if sys.stderr.isatty() else ""
            tell(clear + printable_lines(f"smalti: {self.format(record)}"))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def logs_told() -> Generator[None]:
    """Inside, the library's log is told on stderr: by default warnings, and on a terminal also what takes long.

    Raises UsageError where ``$SMALTI_LOG`` is no level.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked and asked not in LEVELS:
        raise UsageError(f"{VARIABLE} is {asked!r:.40}; allowed are {', '.join(LEVELS)}")
    level = asked or ("info" if sys.stderr.isatty() else "warning")
    logger, handler = logging.getLogger("smalti"), Told()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.CRITICAL + 1 if level == "off" else level.upper())
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
