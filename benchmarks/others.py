"""The peers and the limits: programs of their own, each on the same ground as Goodsyard.

A peer lives in a virtual environment of its own, made once from its pinned requirements.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.arms import Arm, Figures, Say
from benchmarks.processes import ROOT, BenchmarkError, Processes
from benchmarks.servers import Servers

_PEERS = ROOT / "benchmarks" / "peers"

_SECTIONS = ("noop", "enqueue", "io50", "latency", "chain")

# Fewer for the slower ones: each counted run takes seconds, not minutes.
_JOBS = {
    "celery prefork": (20_000, 5_000, 400, 300, 500),
    "celery best pool": (20_000, 5_000, 4_000, 300, 2_000),
    "dramatiq": (20_000, 5_000, 4_000, 300, 2_000),
    "taskiq": (20_000, 5_000, 4_000, 300, 2_000),
    "huey": (20_000, 5_000, 4_000, 300),  # it has no chain
    "oban": (20_000, 5_000, 4_000, 300, 2_000),
    "procrastinate": (4_000, 2_000, 2_000, 300, 500),
    "dbos": (3_000, 2_000, 2_000, 300, 500),
}

_LIMITS = {"limit set-wise": "setwise", "limit one-by-one": "one_by_one"}
_LIMIT_ORDERS = 6_000


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers, over servers.

    Attributes:
        servers: those of all systems.
        environments: where the virtual environments are made, at first use, and kept.
        say: tells that one is being made.
    """

    servers: Servers
    environments: Path
    say: Say

    def arms(self) -> list[Arm]:
        """Return every peer's arms."""
        return [
            Arm(
                section,
                system,
                jobs,
                partial(self._run, section, system),
                warms_up=section != "latency",  # it warms up by itself, as ours does
            )
            for system, numbers in _JOBS.items()
            for section, jobs in zip(_SECTIONS, numbers, strict=False)
        ]

    def _run(self, section: str, system: str, jobs: int) -> Figures:
        folder = _PEERS / system.partition(" ")[0]
        python = str(_environment(folder, self.environments, self.say))
        program = [str(folder / "bench.py"), system, section]
        return _measured(self.servers, system, section, program, jobs, python, folder)


def limits(servers: Servers) -> list[Arm]:
    """Return the arms of the two programs that do the chain's work without any job system."""
    return [
        Arm("chain", system, _LIMIT_ORDERS, partial(_limit, servers, system, module))
        for system, module in _LIMITS.items()
    ]


def _limit(servers: Servers, system: str, module: str, orders: int) -> Figures:
    program = ["-m", f"benchmarks.limits.{module}", "chain"]
    return _measured(servers, system, "chain", program, orders)


def _measured(  # noqa: PLR0913, PLR0917 - all that tells one program from another
    servers: Servers,
    system: str,
    section: str,
    program: list[str],
    jobs: int,
    python: str = sys.executable,
    folder: Path | None = None,
) -> Figures:
    with servers.ground() as ground, Processes(ground) as processes:
        gateway = processes.start_gateway() if section == "chain" else "http://127.0.0.1:9"
        own, result = ground.folder / "own", ground.folder / "result.json"
        own.mkdir()
        processes.run(
            "program",
            *program,
            *("--jobs", str(jobs), "--redis", ground.redis, "--postgres", ground.postgres),
            *("--gateway", gateway, "--folder", str(own), "--result", str(result)),
            python=python,
            folder=folder,
        )
        figures: dict[str, float] = json.loads(result.read_bytes())
    return {name: {system: value} for name, value in figures.items()}


def _environment(peer: Path, environments: Path, say: Say) -> Path:
    """Return the Python of a peer's environment, made anew where its requirements have changed."""
    requirements = peer / "requirements.txt"
    if not requirements.exists():
        raise BenchmarkError(f"{peer.name} has no requirements.txt")
    interpreter = _interpreter(peer)
    folder = environments / peer.name
    python, stamp = folder / "bin" / "python", folder / "made-from"
    made_from = hashlib.sha256(interpreter.encode() + requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_from:
        say(f"Installing {peer.name} into {folder.relative_to(ROOT)} ...")
        stamp.unlink(missing_ok=True)
        _install(peer, interpreter, "-m", "venv", "--clear", str(folder))
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _install(peer, str(python), *pip, "--requirement", str(requirements))
        stamp.write_text(made_from)
    return python


def _interpreter(peer: Path) -> str:
    """Return the Python a peer asks for in ``.python-version``; ours, if it doesn't.

    Raises:
        BenchmarkError: there is none here.
    """
    asked = peer / ".python-version"
    ours = "{}.{}".format(*sys.version_info[:2])
    version = asked.read_text().strip() if asked.exists() else ours
    if version == ours:
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        raise BenchmarkError(f"{peer.name} needs Python {version}, and there is none in PATH")
    return found


def _install(peer: Path, *command: str) -> None:
    # In the peer's folder: where python3.12 is pyenv's, .python-version is what makes it work.
    made = subprocess.run(command, cwd=peer, capture_output=True, check=False)
    if made.returncode != 0:
        raise BenchmarkError(f"{peer.name} can't be installed: {made.stderr.decode()[-500:]}")
