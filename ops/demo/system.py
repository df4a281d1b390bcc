"""``goodsyard up`` as a child: it comes up on a fresh folder and is gone when the demo is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from goodsyard.settings import PREFIX
from ops.children import Program, last_lines, spawn, stop
from ops.errors import CommandError
from ops.plan import sole_use

SECONDS_TO_COME_UP = 240.0  # its own limits for each part are shorter and name the part
GRACE = 60.0  # its workers have 35 s to finish what they do

_LOOK_AGAIN = 0.2  # seconds
_OWN_SERVERS = (f"{PREFIX}DATABASE_URL", f"{PREFIX}REDIS_URL", f"{PREFIX}BROKER_URL")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a running system are, from its ready file."""

    api: str
    api_key: str
    database_url: str
    gateway: str


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Addresses]:
    """Run everything on ``folder``, whose former content is removed.

    Raises:
        CommandError: something doesn't come up, or another system runs on the folder.
    """
    _clear(folder)
    log = folder / "up.log"
    program = _up(folder)
    process = spawn(program, log)
    try:
        await _until_ready(process, folder / "ready.json", log)
        yield _addresses(folder / "ready.json")
    finally:
        if process.poll() is None:
            await asyncio.to_thread(stop, process, program)


async def _until_ready(process: subprocess.Popen[bytes], ready_file: Path, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_COME_UP
    while not _is_there(ready_file):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandError(f"The system did not come up. The end of {log}:\n{last_lines(log)}")
        await asyncio.sleep(_LOOK_AGAIN)


def _is_there(file: Path) -> bool:
    return file.exists()  # a microsecond, of a loop that has nothing else to do yet


def _clear(folder: Path) -> None:
    with sole_use(folder):
        for entry in folder.iterdir():
            if entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _up(folder: Path) -> Program:
    # Of what a person has set, only the servers: a demo must not charge at a real gateway or mail
    # to real people. In its own folder, so that no .env file is read either.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) or name in _OWN_SERVERS
    }
    return Program(
        name="up",
        command=(sys.executable, "-m", "ops", "up", "--data-dir", ".", "--port", "0"),
        environment=environment,
        folder=folder.resolve(),
        grace=GRACE,
    )


def _addresses(ready_file: Path) -> Addresses:
    ready = json.loads(ready_file.read_text())
    return Addresses(
        api=ready["api"],
        api_key=ready["admin_api_key"],
        database_url=ready["database_url"],
        gateway=ready["gateway"],
    )
