"""What must come out of the system, read from the file that goes in and from nothing else."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Expectation:
    """The sums of a file of orders; money in minor units."""

    orders: int
    charges: int
    """Orders that cost anything."""
    total: int
    pieces: Counter[str]
    """By SKU."""
    receipts: Counter[str]
    """By address."""


def expectation_of(file: Path) -> Expectation:
    """Add a file of orders up."""
    totals = []
    pieces: Counter[str] = Counter()
    receipts: Counter[str] = Counter()
    with file.open(newline="") as lines:
        for _, order in groupby(csv.DictReader(lines), key=itemgetter("order_key")):
            rows = list(order)
            totals.append(sum(int(row["quantity"]) * int(row["unit_amount"]) for row in rows))
            for row in rows:
                pieces[row["sku"]] += int(row["quantity"])
            receipts[rows[0]["email"]] += 1
    return Expectation(len(totals), sum(map(bool, totals)), sum(totals), pieces, receipts)
