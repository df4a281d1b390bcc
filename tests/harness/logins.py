"""Users of Postgres that are API, relay or worker and nothing else, as an operator makes them."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from sqlalchemy.engine import make_url

from ops import roles
from ops.roles import Role

_PASSWORD = uuid4().hex


def make_logins(database_url: str) -> None:
    """Grant the roles in a migrated database, given by its owner's address, and add users."""
    roles.grant(database_url)
    conninfo = make_url(database_url).set(drivername="postgresql")
    with psycopg.connect(conninfo.render_as_string(hide_password=False)) as connection:
        for role in Role:
            connection.execute(
                f"CREATE ROLE {_user(role)} LOGIN PASSWORD '{_PASSWORD}' IN ROLE {role}".encode()
            )


def login(database_url: str, role: Role) -> str:
    """Return the address of the same database for the user that is ``role``."""
    url = make_url(database_url).set(username=_user(role), password=_PASSWORD)
    return url.render_as_string(hide_password=False)


def _user(role: Role) -> str:
    return f"{role}_of_the_tests"
