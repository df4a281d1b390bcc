"""A key that somebody is about to commit is found, and what was judged to be none is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / ".secrets.baseline"

# Put together here, so that the scan of this very file finds nothing.
_PLANTED = {
    "a key of the gateway": "key = 'sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc'",
    "a password in an address": "url = 'postgresql://shop:" + "Tr0ub4dor@db.internal/shop'",
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "a password": "{}word = 'Tr0ub4dor&3'".format("pass"),
}


@pytest.mark.parametrize("planted", _PLANTED.values(), ids=_PLANTED.keys())
def test_a_planted_key_is_found(tmp_path: Path, planted: str) -> None:
    file = tmp_path / "settings.py"
    file.write_text(f"{planted}\n")
    run = _scan(file)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{file}:1" in run.stdout


def test_what_holds_no_key_passes(tmp_path: Path) -> None:
    file = tmp_path / "settings.py"
    file.write_text("password = environ['PASSWORD']\n")
    run = _scan(file)
    assert run.returncode == 0, run.stdout + run.stderr


def test_everything_in_the_baseline_was_judged_to_be_no_secret() -> None:
    found = json.loads(BASELINE.read_text())["results"]
    unjudged = [
        f"{name}:{one['line_number']}"
        for name, ones in found.items()
        for one in ones
        if one.get("is_secret") is not False
    ]
    assert unjudged == []


def _scan(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "detect_secrets.pre_commit_hook"),
            *("--baseline", str(BASELINE), str(file)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
