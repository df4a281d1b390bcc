"""The verbs for what runs: each one call to the API, shown as a table or as JSON."""

# ruff: noqa: PLC0415 - a verb imports what it needs itself: `goodsyard --help` answers at once

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ops.errors import CommandError

if TYPE_CHECKING:
    from ops.remote import Api, Body

jobs = typer.Typer(help="See jobs, cancel them, revive those that are dead.")
workflows = typer.Typer(help="See workflows step by step; call one off as a whole.")
queues = typer.Typer(help="See queues; hold one back and let it go again.")
schedules = typer.Typer(help="See what is done by the clock; hold it back and let it go again.")
cache = typer.Typer(help="Forget results that stand for later requests.")
limits = typer.Typer(help="See and set what holds a kind of job back, in the whole cluster.")

Url = Annotated[str | None, typer.Option("--api", help="Its address, or GOODSYARD_API_URL.")]
Key = Annotated[str | None, typer.Option("--api-key", help="The key, or GOODSYARD_API_KEY.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]
Kind = Annotated[str | None, typer.Option(help="Of this kind only, as orders.process.")]
Queue = Annotated[str | None, typer.Option(help="Of this queue only.")]
WorkflowId = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The id of a workflow.")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


@jobs.command("list")
def list_jobs(  # noqa: PLR0913 - an option each
    *,
    state: Annotated[str | None, typer.Option(help="In this state only, as dead.")] = None,
    kind: Kind = None,
    queue: Queue = None,
    limit: Annotated[int, typer.Option(min=1, help="At most as many.")] = 50,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    query = {"state": state, "kind": kind, "queue": queue}
    found = [*_open(api, api_key).entries("/jobs", query, limit)]
    _print_list(found, ("id", "kind", "state", "reason", "attempts", "created_at"), as_json=as_json)


@jobs.command("show")
def show_job(job: JobId, *, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show all there is about one job."""
    _print_one(_open(api, api_key).get(f"/jobs/{job}"), as_json=as_json)


@jobs.command("retry")
def retry(  # noqa: PLR0913 - an option each
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; or:")] = None,
    *,
    kind: Kind = None,
    queue: Queue = None,
    reason: Annotated[str | None, typer.Option(help="Dead for this reason only.")] = None,
    all_dead: Annotated[bool, typer.Option("--all", help="All dead jobs.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say which.")] = False,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a dead job try again, under its own id; or all those that match."""
    filters = {"kind": kind, "queue": queue, "reason": reason}
    wanted = {name: value for name, value in filters.items() if value is not None}
    if (job is not None) == (bool(wanted) or all_dead):
        raise CommandError("Which jobs? Give one id; or --kind, --queue, --reason; or --all.")
    if job is not None and dry_run:
        raise CommandError("--dry-run tells which jobs match; here it is the one you name.")
    if job is not None:
        answer = _open(api, api_key).post(f"/jobs/{job}/retry")
    else:
        answer = _open(api, api_key).post("/jobs/retry", {**wanted, "dry_run": dry_run})
    _print_one(answer, as_json=as_json)


@jobs.command("cancel")
def cancel(job: JobId, *, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Cancel a job: one that waits at once; one that runs is asked to end."""
    _print_one(_open(api, api_key).post(f"/jobs/{job}/cancel"), as_json=as_json)


@workflows.command("list")
def list_workflows(
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most as many.")] = 50,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List workflows, the newest first."""
    found = [*_open(api, api_key).entries("/workflows", {}, limit)]
    _print_list(found, ("id", "state", "reason", "undone_by", "created_at"), as_json=as_json)


@workflows.command("show")
def show_workflow(
    workflow: WorkflowId, *, api: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Show a workflow, and each of its steps with its job."""
    found = _open(api, api_key).get(f"/workflows/{workflow}")
    if as_json:
        _print_one(found, as_json=True)
        return
    steps = found.pop("steps")
    _print_one(found, as_json=False)
    rows = [{**step, "job": step["job"]["id"], "state": step["job"]["state"]} for step in steps]
    _print_list(rows, ("name", "kind", "job", "state", "waits_for", "undone_by"), as_json=False)


@workflows.command("cancel")
def cancel_workflow(
    workflow: WorkflowId, *, api: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Call off what has not begun, and make up for what took effect."""
    _print_one(_open(api, api_key).post(f"/workflows/{workflow}/cancel"), as_json=as_json)


@queues.command("list")
def list_queues(*, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List the queues: how full, how late, how many worker processes."""
    found = _open(api, api_key).get("/queues")["data"]
    columns = ("name", "paused", "workers", "depth", "oldest_seconds")
    _print_list(found, columns, as_json=as_json)


@queues.command("pause")
def pause(queue: Name, *, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Hold a queue back: what runs goes on, what waits goes on waiting."""
    _print_one(_open(api, api_key).post(f"/queues/{queue}/pause"), as_json=as_json)


@queues.command("resume")
def resume(queue: Name, *, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Let a queue go again."""
    _print_one(_open(api, api_key).post(f"/queues/{queue}/resume"), as_json=as_json)


@schedules.command("list")
def list_schedules(*, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List the schedules: when each ticked last, and when it will."""
    found = _open(api, api_key).get("/schedules")["data"]
    columns = ("name", "cron", "zone", "misfire", "paused", "last", "last_jobs", "next")
    _print_list(found, columns, as_json=as_json)


@schedules.command("pause")
def pause_schedule(
    schedule: Name, *, api: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Hold a schedule back."""
    _print_one(_open(api, api_key).post(f"/schedules/{schedule}/pause"), as_json=as_json)


@schedules.command("resume")
def resume_schedule(
    schedule: Name, *, api: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Let a schedule go again; what it missed goes by its misfire policy."""
    _print_one(_open(api, api_key).post(f"/schedules/{schedule}/resume"), as_json=as_json)


@cache.command("invalidate")
def invalidate(
    kind: Annotated[str, typer.Argument(help="As payments.reconcile.")],
    *,
    payload: Annotated[
        str | None, typer.Option(help="As JSON: only what stands for it. Else all of the kind.")
    ] = None,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Have the next requests for a kind run anew."""
    import json

    body: Body = {"kind": kind}
    if payload is not None:
        try:
            body["payload"] = json.loads(payload)
        except json.JSONDecodeError as error:
            raise CommandError(f"The --payload is not JSON: {error}.") from error
    _print_one(_open(api, api_key).post("/cache/invalidate", body), as_json=as_json)


@limits.command("list")
def list_limits(*, api: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List the limits in force."""
    found = _open(api, api_key).get("/limits")["data"]
    columns = ("name", "rate", "burst", "concurrency", "penalised_until", "free_at")
    _print_list(found, columns, as_json=as_json)


@limits.command("set")
def set_limit(  # noqa: PLR0913 - an option each
    limit: Name,
    *,
    rate: Annotated[str | None, typer.Option(help="As 100/minute; none lifts it.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="How many may start at once.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="How many may be under way; none lifts it.")
    ] = None,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Set what holds a kind back; what isn't named stays as it is. Live within a second."""
    body: Body = {}
    if rate is not None:
        body |= {"rate": None if rate == "none" else rate, "burst": burst}
    elif burst is not None:
        raise CommandError("A --burst goes with a --rate.")
    if concurrency is not None:
        body["concurrency"] = _number_or_none(concurrency)
    if not body:
        raise CommandError("What is to be set? Give --rate, --concurrency or both.")
    _print_one(_open(api, api_key).put(f"/limits/{limit}", body), as_json=as_json)


@limits.command("penalise")
def penalise(
    limit: Name,
    seconds: Annotated[float, typer.Argument(min=0, help="How long; 0 pardons.")],
    *,
    api: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let no job of a kind start for a while; what is on its way goes on."""
    answer = _open(api, api_key).post(f"/limits/{limit}/penalise", {"seconds": seconds})
    _print_one(answer, as_json=as_json)


def _number_or_none(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise CommandError(f"A --concurrency of {text}? It is a number from 1, or none.")
    return int(text)


def _open(url: str | None, key: str | None) -> Api:
    from ops.remote import Api

    return Api(url, key)


def _print_list(found: Sequence[Body], columns: Sequence[str], *, as_json: bool) -> None:
    from ops import show

    if as_json:
        show.as_json(found)
    else:
        show.as_table(columns, found)


def _print_one(found: Body, *, as_json: bool) -> None:
    from ops import show

    if as_json:
        show.as_json(found)
    else:
        show.as_fields(found)
