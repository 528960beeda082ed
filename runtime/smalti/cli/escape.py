"""Escapes for text from strangers' files, so that a terminal may show it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape every character that is not printable, so that none can move the cursor or forge a line.

    Parts of file names that are not UTF-8 are escaped too. Accents and other scripts stay.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """Escape text of several lines as :func:`printable` does; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))
