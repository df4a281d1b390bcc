"""The Celery app: one task a kind of job, named by it, and the hooks of a worker process's life."""

from __future__ import annotations

from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    task_rejected,
    task_unknown,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)
from celery.worker import WorkController

from goodsyard import messages
from goodsyard.dropped import Reason
from tasks import contracts
from workers import logging, runtime, tally, transport

transport.install()
app = Celery("goodsyard")
app.config_from_object("celeryconfig")


def _register(kind: str) -> None:
    @app.task(name=kind)
    def run(v: object = None, jobs: object = None, *_: object, **__: object) -> None:
        try:
            deliveries = messages.parse(v, jobs)
        except messages.MalformedMessageError:
            tally.note(Reason.MALFORMED)
            raise
        runtime.run(kind, deliveries)


for _contract in contracts.ALL:
    _register(_contract.kind)


@app.on_after_finalize.connect
def _keep_our_own_tasks_only(sender: Celery, **_: object) -> None:
    # Celery brings some that run others, as often as their message says: nobody of ours sends them.
    for name in [name for name in sender.tasks if name.startswith("celery.")]:
        sender.tasks.unregister(name)


@task_unknown.connect
def _on_task_unknown(**_: object) -> None:
    tally.note(Reason.UNKNOWN)


@task_rejected.connect
def _on_task_rejected(**_: object) -> None:
    tally.note(Reason.UNREADABLE)


@setup_logging.connect
def _on_setup_logging(**_: object) -> None:
    logging.configure()


@celeryd_after_setup.connect
def _on_setup(sender: str, instance: WorkController, **_: object) -> None:
    # Before the fork: whatever is wrong with settings or flow stops the whole worker by name, and
    # the heavy imports are shared by all its processes.
    runtime.prepare(node=sender, queues=sorted(instance.app.amqp.queues.consume_from))


@worker_process_init.connect
def _on_process_init(**_: object) -> None:
    runtime.start()


@worker_process_shutdown.connect
def _on_process_shutdown(**_: object) -> None:
    runtime.stop()


@worker_shutdown.connect
def _on_shutdown(**_: object) -> None:
    runtime.stop()  # of the solo pool, whose one process is the worker itself
