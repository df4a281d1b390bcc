"""The users that docs/security.md gives Redis may do what a paid order takes, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from sqlalchemy.engine import make_url

from goodsyard import doorbell, progress
from goodsyard.breaker import Breaker
from goodsyard.progress import Progress, ProgressReader
from goodsyard.settings import PREFIX
from tests.conftest import Servers
from tests.harness.clients import caller, order_of
from tests.harness.cluster import ROOT, Cluster
from tests.harness.shop import Shop

_SETUSER = re.compile(r"^ACL (SETUSER goodsyard-(\w+) .*)$", re.MULTILINE)


@pytest.fixture
def urls(servers: Servers) -> Iterator[dict[str, str]]:
    """The address of each user, by the name of its process, as the page has them made."""
    page = Path(ROOT, "docs/security.md").read_text()
    users = {name: rules for rules, name in _SETUSER.findall(page)}
    server, password = make_url(servers.valkey.url), token_hex()
    with Redis.from_url(servers.valkey.url) as admin:
        for rules in users.values():
            admin.execute_command("ACL", *rules.replace(">PASSWORD", f">{password}").split())
        admin.acl_log_reset()
        yield {
            name: server.set(username=f"goodsyard-{name}", password=password).render_as_string(
                hide_password=False
            )
            for name in users
        }
        admin.acl_deluser(*(f"goodsyard-{name}" for name in users))


def test_with_these_users_an_order_is_paid_and_told(
    servers: Servers, own_database_url: str, urls: dict[str, str], tmp_path: Path
) -> None:
    as_user = {name: {f"{PREFIX}REDIS_URL": url} for name, url in urls.items()}
    with (
        Cluster(tmp_path, own_database_url, servers.valkey.url) as cluster,
        Shop(own_database_url, cluster.sandbox, tmp_path) as shop,
    ):
        api = cluster.api(as_user["api"])
        cluster.relay(as_user["relay"])
        cluster.worker(settings=as_user["worker"])
        cluster.until_ready()
        with caller(shop, api.url) as http:
            order = http.post("/v1/orders", json=order_of(shop), headers={"Idempotency-Key": "1"})
            place = f"/v1/orders/{order.json()['order']['id']}"
            assert http.get(place, params={"wait": 30}).json()["status"] == "paid"
            for page in ("/v1/reports/top-customers", f"/v1/users/{shop.user}", "/metrics"):
                http.get(page).raise_for_status()
    with Redis.from_url(servers.valkey.url, decode_responses=True) as admin:
        assert admin.acl_log() == [], "refused to one of ours"


async def test_the_api_may_read_what_a_workers_jobs_say(urls: dict[str, str]) -> None:
    job, word = uuid4(), Progress(1, 0.4, "counting", datetime.now(UTC))
    async with doorbell.connect(urls["worker"]) as worker, doorbell.connect(urls["api"]) as api:
        await progress.say(worker, [(job, word)])
        assert await ProgressReader(api, Breaker("tests")).read(job, 1) == word


@pytest.mark.parametrize("name", ["api", "relay", "worker"])
@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SHUTDOWN"])
def test_no_process_may_do_what_only_an_operator_does(
    urls: dict[str, str], name: str, command: str
) -> None:
    with Redis.from_url(urls[name]) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


@pytest.mark.parametrize("name", ["api", "relay"])
def test_neither_api_nor_relay_reads_what_is_not_theirs(urls: dict[str, str], name: str) -> None:
    with Redis.from_url(urls[name]) as client, pytest.raises(NoPermissionError):
        client.get("celery-task-meta-of-somebody")
