"""``python -m ops.demo``."""

from __future__ import annotations

import sys

from ops.demo.show import main

if __name__ == "__main__":
    sys.exit(main())
