"""Sandboxes: one for all tests that need none of their own, and as many as a test starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.sandbox.process import Sandbox


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts sandboxes on this test's folder, and ends those the test left."""
    started: list[Sandbox] = []

    def begin(*events: str) -> Sandbox:
        started.append(Sandbox(tmp_path / "sandbox", *events))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.end()


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One process for the tests that need none of their own."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.end()


@pytest.fixture
def sandbox(shared: Sandbox) -> Sandbox:
    """A sandbox that behaves and whose log looks empty."""
    shared.turn_the_page()
    return shared
