"""Hooks for PyInstaller, which finds them by the entry point ``pyinstaller40``: an app with smalti needs no options.

``hook-*.py`` say what belongs into an app beside the modules that PyInstaller sees; ``rthooks`` run when it starts.
"""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folders of hooks, as PyInstaller asks for them."""
    return [str(Path(__file__).parent)]
