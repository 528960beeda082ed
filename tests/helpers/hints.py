"""The commands that messages name, as they are where no folder of the checkout is the working folder."""

from __future__ import annotations

from smalti.system.platform import installation, requirement


def installs(extra: str) -> str:
    """What installs an extra of smalti, from where the tests have it."""
    words = requirement(extra, installation())
    return "pip install " + " ".join(word if word == "-e" else f'"{word}"' for word in words)


class Hints(dict[str, str]):
    """:func:`installs` for every extra that a text has in braces."""

    def __missing__(self, extra: str) -> str:
        return installs(extra)
