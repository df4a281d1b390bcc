"""Brings a database to the newest schema; several at once take turns and one of them does it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x676F6F6473  # "goods": one migration at a time a database


def alembic_config() -> Config:
    """Return Alembic's configuration; there is no ``alembic.ini`` to keep in step with it."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def migrate(database_url: str) -> None:
    """Upgrade the database at ``database_url`` to the newest revision.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached. Nothing was changed.
    """
    engine = create_engine(database_url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
