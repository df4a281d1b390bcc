"""Nothing that others could have written is ever turned into objects by anything but JSON."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from celery import Celery
from celery.backends.base import DisabledBackend

import workers.app

ROOT = Path(__file__).parents[2]
PACKAGES = ("goodsyard", "commerce", "tasks", "producers", "workers", "ops")
RUNS_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """Celery as our workers configure it; it connects to nothing."""
    monkeypatch.setenv("GOODSYARD_DATABASE_URL", "postgresql+psycopg://127.0.0.1/goodsyard")
    monkeypatch.setenv("GOODSYARD_REDIS_URL", "redis://127.0.0.1:6379/0")
    return workers.app.app


def test_results_are_rows_and_never_read_from_the_broker(app: Celery) -> None:
    assert isinstance(app.backend, DisabledBackend)
    assert app.conf.accept_content == app.conf.result_accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"


def test_nothing_of_ours_reads_what_can_run_code() -> None:
    imported = {
        (str(file.relative_to(ROOT)), name)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert len(imported) > 500
    assert {(file, name) for file, name in imported if name.split(".")[0] in RUNS_CODE} == set()


def test_celery_brings_no_task_that_runs_others(app: Celery) -> None:
    assert [name for name in app.tasks if name.startswith("celery.")] == []
