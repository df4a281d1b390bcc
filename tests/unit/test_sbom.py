"""``make sbom`` lists what the image installs, all of it."""

from __future__ import annotations

import json
import re
import subprocess
from shutil import which

from tests.harness.cluster import ROOT

_PINNED = re.compile(r"^([a-z0-9.-]+)(?:\[[a-z,-]+\])?==([^ ;]+)", re.MULTILINE)


def test_the_bill_lists_what_is_locked_with_its_hashes() -> None:
    subprocess.run(
        [which("make") or "make", "sbom"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    bill = json.loads((ROOT / "dist" / "sbom.cdx.json").read_text())
    locked = set(_PINNED.findall((ROOT / "requirements" / "production.txt").read_text()))
    assert {(part["name"], part["version"]) for part in bill["components"]} == locked
    for part in bill["components"]:
        (archive,) = part["externalReferences"]
        assert archive["hashes"], part["name"]
