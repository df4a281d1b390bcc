"""What the person at the terminal sees: each turn's figures, and below them how far all is."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_WIDTH_OF_A_FILE = 120


class Terminal:
    """Tells what goes on, within ``with``.

    Nothing is drawn but at the begin and at the end of a turn: a spinner would take its time from
    what is timed.
    """

    def __init__(self) -> None:
        """Draw nothing yet."""
        self.console = Console(
            highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
        )
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            auto_refresh=False,
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def expect(self, turns: int) -> None:
        """Say how many turns there will be."""
        self._progress.update(self._task, total=turns, refresh=True)

    def begin(self, turn: str) -> None:
        """Say what goes on from now."""
        self._progress.update(self._task, description=turn, refresh=True)

    def end(self) -> None:
        """Say that a turn is over."""
        self._progress.update(self._task, advance=1, refresh=True)

    def say(self, what: RenderableType) -> None:
        """Write a line that stays."""
        self.console.print(what)
