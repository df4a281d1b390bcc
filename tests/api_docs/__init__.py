"""The API's pages of examples come from a running system: ``make docs-api``."""
