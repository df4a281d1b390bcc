"""The command line answers quickly, and says in one line what it could not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from commerce.accounts.keys import create_api_key, find_api_key, split_api_key
from goodsyard.database import Sessions
from ops.embedded.ports import free_port

ROOT = Path(__file__).parents[2]


def test_help_loads_nothing_that_only_a_verb_needs() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ops", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    heavy = {"aiohttp", "celery", "fastapi", "pydantic", "sqlalchemy", "stripe", "uvicorn"}
    assert not loaded & heavy


async def test_an_api_key_is_printed_once_and_of_no_use_once_revoked(
    database_url: str, redis_url: str, sessions: Sessions
) -> None:
    settings = {"GOODSYARD_DATABASE_URL": database_url, "GOODSYARD_REDIS_URL": redis_url}
    created = _goodsyard(
        *("api-key", "create", "--tenant", "shop", "--scope", "orders:read", "--json"), **settings
    )
    parts = split_api_key(json.loads(created.stdout)["api_key"])
    assert parts is not None
    key_id, secret = parts
    async with sessions.begin() as tx:
        stored = await find_api_key(tx, key_id)
    assert stored is not None
    assert stored.opens_with(secret)
    assert stored.scopes == {"orders:read"}

    assert _goodsyard("api-key", "revoke", key_id, **settings).returncode == 0
    async with sessions.begin() as tx:
        assert await find_api_key(tx, key_id) is None
    again = _goodsyard("api-key", "revoke", key_id, **settings)
    assert again.returncode == 1
    assert again.stderr == f"goodsyard: There is no key {key_id}, or it was revoked before.\n"


async def test_a_tenant_is_put_on_a_plan_there_is(
    database_url: str, redis_url: str, sessions: Sessions
) -> None:
    settings = {"GOODSYARD_DATABASE_URL": database_url, "GOODSYARD_REDIS_URL": redis_url}
    async with sessions.begin() as tx:
        key = split_api_key(await create_api_key(tx, "shop", "tests", ["orders:read"]))
    assert key is not None
    put = _goodsyard("tenant", "plan", "shop", "free", "--json", **settings)
    assert json.loads(put.stdout) == {"tenant": "shop", "plan": "free"}
    async with sessions.begin() as tx:
        stored = await find_api_key(tx, key[0])
    assert stored is not None
    assert stored.plan == "free"
    for wrong in (("shop", "gold"), ("nobody", "free")):
        refused = _goodsyard("tenant", "plan", *wrong, **settings)
        assert refused.returncode == 1
        assert refused.stderr.startswith("goodsyard: There is no ")


async def test_a_tenants_share_is_given_by_its_name(
    database_url: str, redis_url: str, sessions: Sessions
) -> None:
    settings = {"GOODSYARD_DATABASE_URL": database_url, "GOODSYARD_REDIS_URL": redis_url}
    async with sessions.begin() as tx:
        await create_api_key(tx, "shop", "tests", ["orders:read"])
    for share in (3, 0.5):
        put = _goodsyard("tenant", "share", "shop", str(share), "--json", **settings)
        assert json.loads(put.stdout) == {"tenant": "shop", "share": share}
    async with sessions.begin() as tx:
        kept = await tx.execute(
            text(
                "SELECT name, weight FROM goodsyard.share s JOIN commerce.tenant t ON t.id = tenant"
            )
        )
        assert [tuple(row) for row in kept] == [("shop", 0.5)]
    refused = _goodsyard("tenant", "share", "nobody", "1", **settings)
    assert refused.returncode == 1
    assert refused.stderr.startswith("goodsyard: There is no tenant nobody")


def test_a_missing_setting_is_named_with_a_good_value() -> None:
    refused = _goodsyard("migrate")
    assert refused.returncode == 2
    assert "GOODSYARD_DATABASE_URL is missing. A good value: postgresql+psycopg" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["migrate"], "Postgres: no answer"),
        (["api-key", "revoke", "0"], "The database does not answer"),
        (["jobs", "list"], "No answer from"),
        (["jobs", "retry"], "Which jobs?"),
        (["limits", "set", "payments.charge"], "What is to be set?"),
        (["limits", "set", "payments.charge", "--burst", "5"], "A --burst goes with a --rate"),
        (["limits", "set", "payments.charge", "--concurrency", "0"], "A --concurrency of 0?"),
        (["tenant", "share", "shop", "0"], "A share of 0? It is 0.01 to 100."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], message: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    refused = _goodsyard(
        *arguments,
        GOODSYARD_DATABASE_URL=f"postgresql+psycopg://a:b@{nowhere}/c",
        GOODSYARD_REDIS_URL=f"redis://{nowhere}",
        GOODSYARD_API_URL=f"http://{nowhere}",
        GOODSYARD_API_KEY="gy_live_a_b",
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"goodsyard: {message}")
    assert len(refused.stderr.splitlines()) == 1


def _goodsyard(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GOODSYARD_")}
    return subprocess.run(
        [sys.executable, "-m", "ops", *arguments],
        cwd=ROOT,
        env=bare | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
