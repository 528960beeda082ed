"""Text from files that strangers made, as a terminal may show it."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with escapes for characters that are not printable: none can move the cursor or forge a line.

    Halves of characters, of file names that are not UTF-8, are escaped too; accents and other scripts stay.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """The same of text that has several lines."""
    return "\n".join(map(printable, text.split("\n")))
