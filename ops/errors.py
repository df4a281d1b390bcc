"""A command that can't do what it was asked says so in its own words, never with a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """Ends a command with status 1; its message tells what happened, what was kept, what to do."""
