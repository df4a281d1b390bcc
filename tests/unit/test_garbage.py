"""Processes that live long look for garbage seldom, and not among what they loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_AFTER = """
import gc, json, {module}
from goodsyard import garbage
garbage.look_seldom()
print(json.dumps([gc.get_freeze_count(), len(gc.get_objects()), gc.get_threshold()[0]]))
"""


@pytest.mark.parametrize("module", ["workers.relay", "producers.app"])
def test_what_is_loaded_is_looked_through_no_more(module: str) -> None:
    told = subprocess.check_output([sys.executable, "-c", _AFTER.format(module=module)])
    frozen, left, threshold = json.loads(told)
    assert frozen > 50_000
    assert left < 1_000
    assert threshold == 50_000
