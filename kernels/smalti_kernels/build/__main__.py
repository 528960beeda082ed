"""``python -m smalti_kernels.build``: see :mod:`smalti_kernels.build.command`."""

from __future__ import annotations

import sys

from smalti_kernels.build.command import main

if __name__ == "__main__":
    sys.exit(main())
