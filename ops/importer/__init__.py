"""Hands a file of orders to the API: each order once, however often the import is run again."""

from ops.importer.command import Options, import_orders, main
from ops.importer.pipeline import Counts

__all__ = ["Counts", "Options", "import_orders", "main"]
