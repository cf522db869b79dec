"""``python -m notebook_rt`` is ``notebook-rt``."""

from __future__ import annotations

import sys

from notebook_rt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
