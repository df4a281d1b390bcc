"""A command that can't do what it was asked says so in its own words, never with a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """Ends a command with status 1; its message tells what happened, what was kept, what to do."""


class DatabaseSilentError(CommandError):
    """Postgres can't be reached, or refuses us; the message has its words."""

    def __init__(self, cause: object) -> None:
        super().__init__(
            f"The database does not answer: {one_line(cause)} "
            "Nothing was changed. Check GOODSYARD_DATABASE_URL, or ask `goodsyard doctor`."
        )


def one_line(error: object) -> str:
    """Return what an error says, as one line."""
    return " ".join(str(error).split())
