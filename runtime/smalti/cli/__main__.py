"""``python -m smalti.cli``: the command where its script is not on the path, as under ``accelerate launch -m``."""

from __future__ import annotations

from smalti.cli.main import main

if __name__ == "__main__":
    main()
