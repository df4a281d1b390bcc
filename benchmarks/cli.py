"""The command line ``goodsyard`` of a shop that has the benchmark's two kinds of jobs as well."""

from __future__ import annotations

import benchmarks.jobs  # noqa: F401 - first: what is imported later takes the kinds from it
from ops.cli import app

if __name__ == "__main__":
    app()
