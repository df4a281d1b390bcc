"""The command line: each verb a few lines that hand over to the module that does it."""

# ruff: noqa: PLC0415 - a verb imports what it needs itself: `goodsyard --help` answers at once

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from ops.errors import CommandError


class _Group(TyperGroup):
    """Ends a command that can't be done with one clear message and status 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    help="Runs the jobs behind an order, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    import uvicorn

    from workers import logging

    logging.configure()
    uvicorn.run(
        "producers.app:create_app",
        factory=True,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        # Only a proxy of the operator's may say who calls, and none is configured here.
        proxy_headers=False,
        # Longer than any answer but a long poll, which its caller repeats.
        timeout_graceful_shutdown=5,
    )


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
    from sqlalchemy.exc import OperationalError

    from goodsyard.settings import EngineSettings, load
    from ops.migrate import migrate as run

    try:
        run(str(load(EngineSettings).database_url))
    except OperationalError as error:
        raise CommandError(
            f"The database does not answer: {error.orig}. Nothing changed."
        ) from error


@app.command()
def sandbox(
    host: Host = "127.0.0.1",
    port: Port = 8090,
    smtp_port: Port = 8025,
    folder: Annotated[Path, typer.Option(help="Where its logs are kept.")] = Path(
        ".goodsyard/sandbox"
    ),
) -> None:
    """Run the payment gateway and mail sink for development."""
    from ops.sandbox import main

    main(port, smtp_port, folder, host=host)


def _become_celery(*arguments: str) -> None:
    # The same process, so that signals and the parent-death signal reach Celery itself.
    command = [sys.executable, "-m", "celery", "--app", "workers.app", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - there is no shell to be careful about
