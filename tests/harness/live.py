"""API processes as they are shipped, on a port of their own; one for each set of settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
from pydantic import SecretStr

from goodsyard.settings import PREFIX
from ops.children import Program
from ops.embedded.ports import LOOPBACK, free_port
from producers.settings import ApiSettings
from tests.harness.cluster import ROOT
from tests.harness.programs import Running


class LiveServers:
    """Processes of ``goodsyard api`` that serve any number of tests, one after the other.

    To start one takes seconds. So a test's database and Redis are emptied under it, which it takes
    as it would a restart of theirs, and what it answers is the same as a new process would.
    """

    def __init__(self, folder: Path) -> None:
        """Keep their logs in ``folder``."""
        self._folder = folder
        self._urls: dict[tuple[tuple[str, str], ...], str] = {}
        self._stack = ExitStack()

    def url(self, settings: ApiSettings) -> str:
        """Return the address of the process that has these settings, started if there is none."""
        told = _as_variables(settings)
        name = tuple(sorted(told.items()))
        if name not in self._urls:
            self._urls[name] = self._start(told)
        return self._urls[name]

    def _start(self, told: dict[str, str]) -> str:
        # Nothing of a developer's own settings, whether exported or in a .env file where we are.
        ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        url = f"http://{LOOPBACK}:{(port := free_port())}"
        name = f"api-{len(self._urls)}"
        program = Program(
            name=name,
            command=(sys.executable, "-m", "ops", "api", "--port", str(port)),
            environment={**ours, "PYTHONPATH": str(ROOT), **told},
            folder=self._folder,
        )
        running = Running(program, self._folder / f"{name}.log", f"Uvicorn running on {url}")
        self._stack.enter_context(running)
        running.start()
        running.until_ready()
        return url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def _as_variables(settings: ApiSettings) -> dict[str, str]:
    """Return what was set, as a process reads it from its environment."""
    return {
        f"{PREFIX}{name.upper()}": _text(getattr(settings, name))
        for name in settings.model_fields_set
    }


def _text(value: object) -> str:
    """Return a setting as its environment variable has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return orjson.dumps({name: _text(one) for name, one in value.items()}).decode()
    return str(value)
