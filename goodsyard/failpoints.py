"""The one test hook: a process dies or stops at a named line if its environment says so.

``GOODSYARD_FAILPOINT=after_claim`` kills the process there; ``before_commit:stop`` stops it
(SIGSTOP); ``before_commit@3`` waits for the third passage. Off unless set.
"""

from __future__ import annotations

import os
import signal
from itertools import count

_name, _, _action = os.environ.get("GOODSYARD_FAILPOINT", "").partition(":")
_name, _, _passage = _name.partition("@")
_passages = count(1)


def failpoint(name: str) -> None:
    """Die or stop here, if this is the armed line."""
    if name == _name and next(_passages) == int(_passage or 1):
        os.kill(os.getpid(), signal.SIGSTOP if _action == "stop" else signal.SIGKILL)
