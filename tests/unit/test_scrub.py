"""What looks like a secret is in no line of the log, whichever form it has."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from goodsyard.scrub import scrub
from workers import logging as our_logging

SECRETS = [
    "gy_live_" + "a1b2_example-of-ours",
    "sk_" + "live_an_example",
    "rk_" + "test_an_example",
    "whsec_" + "example-of-" + "a-webhooks-secret",
    "Bearer abc.def-ghi",
    "Authorization: Basic " + "dXNlcjpwYXNz",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0.c2ln",
    "4242 4242 4242 4242",
    "4242-4242-4242-4242",
    "378282246310005",
    "postgresql://shop:" + "Tr0ub4dor@db.internal/shop",
    "redis://:" + "Tr0ub4dor@127.0.0.1/0",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_taken_out(secret: str) -> None:
    said = scrub(f"the call failed: {secret}, and more")
    assert said.startswith("the call failed: ")
    assert said.endswith(", and more")
    assert secret not in said
    assert "Tr0ub4dor" not in said


@pytest.mark.parametrize(
    "said",
    [
        "01980000-0000-7000-8000-000000000000",
        "2026-11-23T04:10:06.123456Z",
        '{"size": 1763871234567}',
        "http://127.0.0.1:8000/v1/orders",
        "basic",
        "the bearer",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert scrub(said) == said


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_form_of_the_log_holds_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    for name, value in {
        "LOG_FORMAT": log_format,
        "DATABASE_URL": "postgresql+psycopg://127.0.0.1/none",
        "REDIS_URL": "redis://127.0.0.1/0",
    }.items():
        monkeypatch.setenv(f"GOODSYARD_{name}", value)
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, structlog.get_config()
    try:
        our_logging.configure()
        for secret in SECRETS:
            structlog.get_logger("tests").warning("event", said=secret, deep={"in": [secret]})
            logging.getLogger("another.library").warning("said %s", secret)
            try:
                raise ValueError(secret)  # noqa: TRY301 - a traceback that quotes it is the point
            except ValueError:
                logging.getLogger("another.library").exception("failed")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.configure(**ours)
    lines = capsys.readouterr().err
    assert "said" in lines
    assert not [secret for secret in SECRETS if secret in lines]
    if log_format == "json":
        assert all(json.loads(line) for line in lines.splitlines())
