"""Celery's settings: delivery carries no meaning here, so each is the leanest that loses no worker.

Redis is a doorbell: what it loses, doubles or delays, Postgres makes good. The comments name the
behaviour of Celery 5.7 and kombu 5.7 that a setting guards against.
"""

from __future__ import annotations

from kombu import Exchange, Queue

from goodsyard.publisher import URGENT_STEP
from goodsyard.settings import EngineSettings, load
from tasks.contracts import QUEUES

broker_url = load(EngineSettings).broker
result_backend = None  # results are rows, read through a cache
task_ignore_result = True
task_store_errors_even_if_ignored = False

task_serializer = "json"
accept_content = ["json"]  # never pickle: whoever can write to Redis could run code
result_accept_content = ["json"]  # nor where results were stored, if ever they are

# Queues are named, never guessed: a typo must fail, not fill a queue that nobody reads. Publishers
# name the queue only: through an exchange, messages vanish in silence once Redis lost its bindings.
# No message is acknowledged, late or early: kombu wants to put back what isn't yet when Redis goes
# away, over the broken connection, and that ends the worker. The deadline is the redelivery.
task_queues = [Queue(name, Exchange(name), routing_key=name, no_ack=True) for name in QUEUES]
task_default_queue = "orders"
task_create_missing_queues = False

task_acks_late = False
task_reject_on_worker_lost = False  # would send a poison job round for ever, uncounted
task_publish_retry = False  # the relay has its own backoff, and a hang would stall it
task_time_limit = 30  # the last resort: above any provider's time, below any lease

worker_consumer = "workers.consumer:Consumer"  # one that no message ends
worker_prefetch_multiplier = 1
worker_disable_prefetch = True  # no chunk waits in a worker's memory behind a slow call
worker_disable_rate_limits = True  # Celery's are per process; ours are the relay's
worker_cancel_long_running_tasks_on_connection_loss = False  # would kill calls on any blip
worker_proc_alive_timeout = 15
worker_max_tasks_per_child = None
worker_hijack_root_logger = False
worker_soft_shutdown_timeout = 0

# While Flower runs, it asks workers for task events every few seconds (its enable_events). Where
# nobody watches, they would cost a worker's parent process more than half of its time.
worker_send_task_events = False
worker_enable_remote_control = True

broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # the default gives up, and exits, after a hundred
broker_channel_error_retry = True  # READONLY and OOM are weather, not the end
broker_transport_options = {
    "socket_timeout": 5,  # the default waits for ever
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,  # a half-open link is noticed in seconds, not a minute
    # Priority is decided in Postgres; but urgent jobs have a list of their own, read first.
    "priority_steps": [URGENT_STEP, 0],
}
