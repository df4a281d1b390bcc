"""How often a process that lives long looks for garbage in cycles: seldom, and only among the new.

Python does it every 700 allocations or so, which a single chunk makes many times over while all it
allocates is still in use: a tenth of a worker process's time (docs/decisions/0006).
"""

from __future__ import annotations

import gc

YOUNG = 50_000
"""Objects more than before, at which the youngest are looked through: a few milliseconds' work."""


def look_seldom() -> None:
    """Take what is loaded by now out of every search for garbage, and search seldom.

    To be called once all is imported: a framework and its routes are 150,000 objects, and a search
    among them takes tens of milliseconds, in the middle of somebody's request. Processes forked
    later also share their pages for longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
