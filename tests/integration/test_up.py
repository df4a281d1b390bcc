"""``goodsyard up`` brings all of it up, keeps it up, says where it is, leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flower.urls
import httpx
import psycopg
import pytest
from redis import Redis
from tornado.routing import URLSpec
from typer.testing import CliRunner

from ops.cli import app
from ops.embedded.ports import free_port
from tests.conftest import Servers
from tests.processes import living, tree, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROCESSES = ("api", "relay", "worker", "flower", "postgres", "redis")


class Up:
    """A running ``goodsyard up`` and its data folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self.process = process

    @property
    def ready_file(self) -> Path:
        return self._folder / "ready.json"

    @property
    def ready(self) -> dict[str, Any]:  # JSON
        return dict(json.loads(self.ready_file.read_text()))

    @property
    def output(self) -> str:
        return (self._folder / "output").read_text()

    def pids(self, name: str) -> list[int]:
        pids: list[int] = self.ready["pids"][name]
        return pids

    def wait_until_ready(self) -> None:
        wait_until(
            lambda: self.ready_file.exists() or self.process.poll() is not None, "ready.json", 150
        )
        assert self.ready_file.exists(), self.output

    def is_serving(self) -> bool:
        try:
            return httpx.get(f"{self.ready['api']}/readyz").is_success
        except httpx.HTTPError:
            return False


@contextmanager
def started(folder: Path, *arguments: str, **settings: str) -> Iterator[Up]:
    """Run ``goodsyard up`` with its data in ``folder``, from when it is ready."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GOODSYARD_")}
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(
            _command(folder, "--port", "0", "--flower-port", "0", "--workers", "1", *arguments),
            cwd=ROOT,
            env=ours | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            up = Up(folder, process)
            up.wait_until_ready()
            yield up
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One ``goodsyard up`` for the tests that leave it running."""
    with started(tmp_path_factory.mktemp("up")) as up:
        yield up


def test_the_ready_file_says_where_everything_is(running: Up) -> None:
    ready = running.ready
    assert stat.S_IMODE(running.ready_file.stat().st_mode) == 0o600
    assert {*ready} == {
        *("api", "flower", "flower_auth", "database_url", "redis_url"),
        *("gateway", "smtp", "admin_api_key", "pids"),
    }
    assert {*ready["pids"]} == {*PROCESSES}
    everything = tree(running.process.pid)
    for name in PROCESSES:
        assert {*running.pids(name)} <= {*everything}, name
        assert len(running.pids(name)) == 1, name

    assert httpx.get(f"{ready['api']}/readyz").is_success
    assert httpx.get(f"{ready['gateway']}/sandbox/charges").json() == {"data": []}
    assert httpx.get(ready["flower"]).status_code == 401
    assert httpx.get(ready["flower"], auth=_user_and_password(ready)).is_success
    with psycopg.connect(ready["database_url"].replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT 42").fetchone() == (42,)
    with Redis.from_url(ready["redis_url"]) as client:
        assert client.ping()


# Of Flower's own addresses, those that answer anybody: what is served and how much, no task.
_EVERYBODYS = {"/metrics", "/healthcheck", "/static/x", "/login", "/logout"}


def test_flower_shows_nothing_to_strangers_and_changes_nothing_for_anybody(running: Up) -> None:
    served = {
        (re.sub(r"\(.*?\)", "x", spec.regex.pattern).removesuffix("$").removesuffix("/?"), method)
        for one in flower.urls.handlers[:-1]  # the last is for what isn't there
        for spec in [one if isinstance(one, URLSpec) else URLSpec(*one)]
        for method in ("get", "post")
        if method in vars(spec.handler_class)
    }
    changing = [path for path, method in served if path.startswith("/api/") and method == "post"]
    assert len(changing) > 10
    workers, you = running.pids("worker"), _user_and_password(running.ready)
    with httpx.Client(base_url=running.ready["flower"], timeout=30) as stranger:
        open_to_all = {
            path for path, method in served if stranger.request(method, path).status_code != 401
        }
        assert open_to_all <= _EVERYBODYS
        statuses = {path: stranger.post(path, auth=you).status_code for path in changing}
        assert statuses == dict.fromkeys(changing, 403)
    assert running.pids("worker") == workers


def test_flower_knows_the_workers_and_their_queues(running: Up) -> None:
    ready = running.ready
    everything = {"orders", "payments", "notifications", "submit", "quarantine"}

    def knows() -> bool:
        url = f"{ready['flower']}/api/workers?refresh=1"
        nodes = httpx.get(url, auth=_user_and_password(ready), timeout=30).json().values()
        return [{queue["name"] for queue in node["active_queues"]} for node in nodes] == [
            everything
        ]

    wait_until(knows, "Flower to hear from the one worker node", 30)


def test_an_order_goes_all_the_way(running: Up) -> None:
    ready = running.ready
    with httpx.Client(
        base_url=f"{ready['api']}/v1",
        headers={"Authorization": f"Bearer {ready['admin_api_key']}"},
        timeout=40,
    ) as api:
        user = api.post("/users", json={"email": "ann@example.com", "username": "ann"}).json()
        api.put("/stock/CD", json={"on_hand": 1}).raise_for_status()
        order = {
            "user_id": user["id"],
            "currency": "EUR",
            "lines": [{"sku": "CD", "quantity": 1, "unit_amount": 1299}],
            "payment_method": "pm_card_visa",
        }
        placed = api.post("/orders", json=order, headers={"Idempotency-Key": "all-the-way"})
        assert placed.status_code == 202, placed.text
        final = api.get(f"/orders/{placed.json()['order']['id']}", params={"wait": 30}).json()
    assert final["status"] == "paid"


def test_the_verbs_of_an_operator_reach_the_api(running: Up) -> None:
    jobs = _asked(running, "jobs", "list", "--kind", "orders.process", "--state", "succeeded")
    assert [job["kind"] for job in jobs] == ["orders.process"]
    job = jobs[0]["id"]
    assert _asked(running, "jobs", "show", job)["id"] == job
    assert _asked(running, "jobs", "retry", "--all", "--dry-run")["count"] == 0

    assert _asked(running, "queues", "pause", "orders")["paused"] is True
    assert _asked(running, "queues", "resume", "orders")["paused"] is False
    assert {queue["name"]: queue["workers"] for queue in _asked(running, "queues", "list")} == {
        "orders": 2,
        "payments": 2,
        "notifications": 2,
        "submit": 2,
        "quarantine": 2,
    }

    _asked(running, "limits", "set", "payments.charge", "--rate", "100/minute", "--burst", "20")
    _asked(running, "limits", "set", "payments.charge", "--concurrency", "50")
    _asked(running, "limits", "penalise", "payments.charge", "0")
    (limit,) = _asked(running, "limits", "list")
    shown = {"name": "payments.charge", "rate": "100/minute", "burst": 20, "concurrency": 50}
    assert limit.items() >= shown.items()
    lifted = ("--rate", "none", "--concurrency", "none")
    _asked(running, "limits", "set", "payments.charge", *lifted)


@pytest.mark.faults
@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_is_replaced_and_the_ready_file_written_again(
    running: Up, name: str
) -> None:
    [killed] = running.pids(name)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: running.pids(name) not in ([killed], []), f"another {name}", 30)
    wait_until(running.is_serving, "the API to be ready again", 60)


def test_a_data_folder_in_use_is_refused_and_left_alone(running: Up, tmp_path: Path) -> None:
    before = running.ready
    refused = _refused(running.ready_file.parent, "--port", "0")
    assert f"is in use by another `goodsyard up`, process {running.process.pid}" in refused
    assert running.ready == before


def test_a_taken_port_is_refused_before_anything_starts(running: Up, tmp_path: Path) -> None:
    port = running.ready["api"].rpartition(":")[2]
    assert _refused(tmp_path, "--port", port) == (
        f"goodsyard: Port {port} is taken by another program. Nothing was started. "
        "Choose another with --port, or 0 for any free one.\n"
    )
    assert not (tmp_path / "postgres" / "cluster").exists()


def test_a_data_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be used: Not a directory" in _refused(tmp_path / "file" / "data", "--port", "0")


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    refused = _refused(
        *(tmp_path, "--port", "0"),
        GOODSYARD_DATABASE_URL=f"postgresql+psycopg://a:b@{nowhere}/c",
        GOODSYARD_REDIS_URL=f"redis://{nowhere}",
    )
    assert "goodsyard: Postgres: no answer" in refused


@pytest.mark.faults
def test_a_killed_up_leaves_no_process_and_a_good_folder_to_the_next(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        key = first.ready["admin_api_key"]
        family = tree(first.process.pid)
        first.process.kill()
        first.process.wait()
        wait_until(lambda: not living(family), "everything ends with it", 10)
    (tmp_path / "ready.json").unlink()

    with started(tmp_path) as second:
        assert second.ready["admin_api_key"] == key, "a person's scripts go on working"
        family = tree(second.process.pid)
        began = time.monotonic()
        second.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Stopping" in second.output, "the first Ctrl-C to be heard")
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(30) == 0
        assert time.monotonic() - began < 10, "the second Ctrl-C waits for no work in hand"
        assert not living(family)
        assert not second.ready_file.exists()


def test_servers_that_are_set_are_used_and_outlive_it(
    tmp_path: Path, servers: Servers, database_url: str, redis_url: str
) -> None:
    settings = {"GOODSYARD_DATABASE_URL": database_url, "GOODSYARD_REDIS_URL": redis_url}
    with started(tmp_path, "--no-flower", **settings) as up:
        ready = up.ready
        assert (ready["database_url"], ready["redis_url"]) == (database_url, redis_url)
        assert (up.pids("postgres"), up.pids("redis"), up.pids("flower")) == ([], [], [])
        family = tree(up.process.pid)
        up.process.terminate()
        assert up.process.wait(60) == 0
        assert not living(family)
        assert not up.ready_file.exists()
    assert servers.postgres.answers()
    assert servers.valkey.answers()


def _asked(up: Up, *arguments: str) -> Any:  # noqa: ANN401 - JSON of any form
    """Run a verb that calls the API, and return what it prints."""
    ready = up.ready
    settings = {"GOODSYARD_API_URL": ready["api"], "GOODSYARD_API_KEY": ready["admin_api_key"]}
    run = CliRunner().invoke(app, [*arguments, "--json"], env=settings, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def _refused(folder: Path, *arguments: str, **settings: str) -> str:
    """Run a ``goodsyard up`` that can't be, and return what it says."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GOODSYARD_")}
    run = subprocess.run(
        _command(folder, *arguments),
        cwd=ROOT,
        env=ours | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 1, run.stderr
    return run.stderr


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops", "up", "--data-dir", str(folder), *arguments]


def _user_and_password(ready: dict[str, Any]) -> tuple[str, str]:  # JSON
    user, _, password = ready["flower_auth"].partition(":")
    return user, password
