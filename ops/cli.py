"""The command line: each verb a few lines that hand over to the module that does it."""

# ruff: noqa: PLC0415 - a verb imports what it needs itself: `goodsyard --help` answers at once

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ops import remote_cli
from ops.errors import CommandError


class _App(typer.Typer):
    """Ends a command that can't be done with one clear message and status 1."""

    def __call__(self, *arguments: object, **options: object) -> object:
        try:
            return super().__call__(*arguments, **options)
        except CommandError as error:
            sys.exit(f"goodsyard: {error}")


app = _App(
    help="Runs the jobs behind an order, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

api_key = typer.Typer(help="Make and revoke keys to the API, straight in the database.")
app.add_typer(api_key, name="api-key")
tenant = typer.Typer(help="Choose what a tenant may ask for, straight in the database.")
app.add_typer(tenant, name="tenant")
app.add_typer(remote_cli.jobs, name="jobs")
app.add_typer(remote_cli.workflows, name="workflows")
app.add_typer(remote_cli.queues, name="queues")
app.add_typer(remote_cli.limits, name="limits")
app.add_typer(remote_cli.cache, name="cache")
app.add_typer(remote_cli.schedules, name="schedules")

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# Options that aren't ours are Celery's or Flower's.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def up(  # noqa: PLR0913 - an option each
    *,
    data_dir: Annotated[Path, typer.Option(help="Where data, secrets and logs are kept.")] = Path(
        ".goodsyard"
    ),
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker nodes, of two processes each.")] = 2,
    flower: Annotated[bool, typer.Option(help="Show the workers in Flower.")] = True,
    flower_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="5555, or any free one if that is taken.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run everything in this terminal, on embedded servers unless settings name others."""
    from ops.plan import Options
    from ops.up import up as run

    options = Options(
        data_dir=data_dir, port=port, workers=workers, flower=flower, flower_port=flower_port
    )
    run(options, as_json=as_json)


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the HTTP API."""
    from producers.server import serve
    from workers import logging

    logging.configure()
    serve(host, port)


@app.command(context_settings=_PASS_THROUGH)
def worker(
    context: typer.Context,
    queues: Annotated[str | None, typer.Option(help="By commas; all, if not given.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> None:
    """Take work out: a Celery worker; further options are Celery's."""
    options = ["--without-gossip", "--without-mingle"]
    options += ["--queues", queues] if queues else []
    options += ["--concurrency", str(concurrency)] if concurrency else []
    _become_celery("worker", *options, *context.args)


@app.command()
def relay() -> None:
    """Hand due jobs to the workers, and bring back what was lost; any number may run."""
    from workers.relay import main

    main()


@app.command(context_settings=_PASS_THROUGH)
def flower(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 5555,
) -> None:
    """Show workers, queues and tasks in a browser; further options are Flower's."""
    from goodsyard.settings import load
    from ops.settings import FlowerSettings

    secret = load(FlowerSettings).flower_basic_auth.get_secret_value()
    os.environ["FLOWER_BASIC_AUTH"] = secret  # a command line would show it to every user
    _become_celery("flower", f"--address={address}", f"--port={port}", "--read-only", *context.args)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from goodsyard.settings import EngineSettings, load
    from ops.migrate import migrate as run
    from ops.servers import require_postgres

    url = str(load(EngineSettings).database_url)
    require_postgres(url)
    run(url)


@app.command()
def grant(
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements, for somebody else to run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give API, relay and worker a database role each that may do its work and no more."""
    from goodsyard.settings import EngineSettings, load
    from ops import roles

    if sql:
        statements = [f"{statement};" for statement in roles.statements()]
        _tell({"statements": statements}, "\n".join(statements), as_json=as_json)
    else:
        roles.grant(str(load(EngineSettings).database_url))
        _tell({"roles": list(roles.Role)}, f"Granted: {', '.join(roles.Role)}", as_json=as_json)


@app.command()
def sandbox(  # noqa: PLR0913 - an option each
    *,
    host: Host = "127.0.0.1",
    port: Port = 8090,
    smtp_port: Port = 8025,
    folder: Annotated[Path, typer.Option(help="Where its logs are kept.")] = Path(
        ".goodsyard/sandbox"
    ),
    events_url: Annotated[
        str | None, typer.Option(help="Where signed events go; none are sent without it.")
    ] = None,
    events_of: Annotated[
        list[str] | None,
        typer.Option(help="The beginning of the types that go there, as refund.; all without it."),
    ] = None,
) -> None:
    """Run the payment gateway and mail sink for development."""
    from ops.sandbox import EventTarget, main

    events = None
    if events_url is not None:
        from goodsyard.settings import load
        from ops.settings import SandboxSettings

        secret = load(SandboxSettings).gateway_webhook_secret.get_secret_value()
        events = EventTarget(events_url, secret, tuple(events_of or [""]))
    main(port, smtp_port, folder, host=host, events=events)


@app.command("import")
def import_file(  # noqa: PLR0913 - an option each
    file: Annotated[Path, typer.Argument(help="Orders: CSV if it is named so, else NDJSON.")],
    *,
    ensure_stock: Annotated[
        int | None, typer.Option(min=0, help="Give SKUs without stock that many on hand.")
    ] = None,
    refused: Annotated[
        Path | None, typer.Option(help="Where refused rows go; FILE.refused.ndjson else.")
    ] = None,
    api: remote_cli.Url = None,
    api_key: remote_cli.Key = None,
    as_json: Json = False,
) -> None:
    """Send a file of orders to the API; run again, it goes on where it was."""
    from ops.importer import Options, main
    from ops.settings import api_and_key

    address, key = api_and_key(api, api_key)
    options = Options(
        file=file,
        api=address,
        api_key=key,
        ensure_stock=ensure_stock,
        refused=refused,
        as_json=as_json,
    )
    raise typer.Exit(main(options))


@api_key.command("create")
def create_key(
    *,
    tenant: Annotated[str, typer.Option(help="Whose key it is; created if new.")],
    scope: Annotated[list[str], typer.Option(help="What it may do; may be repeated.")],
    name: Annotated[str, typer.Option(help="What it is called in the audit log.")] = "goodsyard",
    unlimited: Annotated[bool, typer.Option(help="Spare it the API's rate limit.")] = False,
    as_json: Json = False,
) -> None:
    """Make an API key; it is shown this once."""
    import asyncio

    from goodsyard.settings import EngineSettings, load
    from ops import admin, show

    url = str(load(EngineSettings).database_url)
    key = asyncio.run(admin.create_key(url, tenant, name, scope, unlimited=unlimited))
    if as_json:
        show.as_json({"api_key": key})
    else:
        typer.echo(key)


@api_key.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key, or its id alone.")],
    *,
    as_json: Json = False,
) -> None:
    """Make an API key useless, within seconds."""
    import asyncio

    from goodsyard.settings import EngineSettings, load
    from ops import admin, show

    key_id = asyncio.run(admin.revoke_key(str(load(EngineSettings).database_url), key))
    if as_json:
        show.as_json({"revoked": key_id})
    else:
        typer.echo(f"Revoked {key_id}")


@tenant.command("plan")
def set_plan(
    name: Annotated[str, typer.Argument(metavar="TENANT")],
    plan: Annotated[str, typer.Argument(help="free, standard or unlimited.")],
    *,
    as_json: Json = False,
) -> None:
    """Put a tenant on another plan: the API's rates for it hold within seconds."""
    import asyncio

    from goodsyard.settings import EngineSettings, load
    from ops import admin, show

    asyncio.run(admin.put_on_plan(str(load(EngineSettings).database_url), name, plan))
    if as_json:
        show.as_json({"tenant": name, "plan": plan})
    else:
        typer.echo(f"{name} is on the plan {plan}")


@tenant.command("share")
def give_share(
    name: Annotated[str, typer.Argument(metavar="TENANT")],
    weight: Annotated[float, typer.Argument(help="0.01 to 100; who has none has 1.")],
    *,
    as_json: Json = False,
) -> None:
    """Give a tenant so many turns at the queues for each of another's."""
    import asyncio

    from goodsyard.settings import EngineSettings, load
    from ops import admin

    asyncio.run(admin.give_share(str(load(EngineSettings).database_url), name, weight))
    line = f"{name} has {weight:g} turns for each of a tenant's without a share"
    _tell({"tenant": name, "share": weight}, line, as_json=as_json)


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Say what is wrong and how to mend it; exit status 1 if anything is."""
    from dataclasses import asdict

    from ops import show
    from ops.doctor import examine, report
    from ops.servers import Verdict

    findings = examine()
    if as_json:
        show.as_json([asdict(finding) for finding in findings])
    else:
        typer.echo(report(findings))
    if any(finding.verdict is Verdict.BAD for finding in findings):
        raise typer.Exit(1)


def _tell(document: object, line: str, *, as_json: bool) -> None:
    from ops import show

    if as_json:
        show.as_json(document)
    else:
        typer.echo(line)


def _become_celery(*arguments: str) -> None:
    # The same process, so that signals and the parent-death signal reach Celery itself.
    command = [sys.executable, "-m", "celery", "--app", "workers.app", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - there is no shell to be careful about
