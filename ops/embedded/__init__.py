"""Real servers for development and tests, from wheels: nothing to install, nothing left behind."""

from ops.embedded.postgres import PostgresServer
from ops.embedded.server import Server, ServerError
from ops.embedded.valkey import ValkeyServer

__all__ = ["PostgresServer", "Server", "ServerError", "ValkeyServer"]
