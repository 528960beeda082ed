"""Escapes for text that a terminal, or its encoding, may not take as it is."""

from __future__ import annotations

import io
import os
from typing import TextIO


def printable(text: str) -> str:
    """Escape every character that is not printable, so that none can move the cursor or forge a line.

    Parts of file names that are not UTF-8 are escaped too. Accents and other scripts stay.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """Escape text of several lines as :func:`printable` does; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def in_place(line: str, stream: TextIO) -> str:
    """Return text that shows a line on a terminal in place of the one before it; an empty line clears that.

    It is filled up with blanks, because old consoles of Windows print the code that clears a line.
    """
    try:
        wide = os.get_terminal_size(stream.fileno()).columns - 1
    except (OSError, ValueError):  # not a terminal
        wide = 79
    return f"\r{printable(line)[:wide].ljust(wide)}\r"


def forgive(*streams: TextIO | None) -> None:
    """Have streams write characters that their encoding lacks as escapes. A pipe on Windows knows few, and would fail.

    None, where a program on Windows has no console, and streams that are not files stay as they are.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
