"""Log lines of every process in one form, console or JSON, and without secrets in either."""

from __future__ import annotations

import logging
import sys

import structlog

from goodsyard.scrub import scrub
from goodsyard.settings import EngineSettings, load


class _Scrubbing(structlog.stdlib.ProcessorFormatter):
    """Takes secrets out of the whole line, tracebacks and other libraries' words included."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def configure() -> None:
    """Send structlog's and the standard library's records to stderr in the form of LOG_FORMAT."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    json = load(EngineSettings).log_format == "json"
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            # The default one prints every local variable with a traceback: payloads, keys, URLs
            # with passwords, and seconds of a busy loop.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Scrubbing(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A line a chunk is Celery's; ours are about what went wrong.
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("stripe").setLevel(logging.WARNING)  # two lines a call otherwise
