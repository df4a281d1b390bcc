"""Ports on the loopback that stay free for their server to come back to."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

# Below Linux's ephemeral ports (ip_local_port_range, 32768 and up), unlike what binding to port 0
# gives. Those are lent to every outgoing connection: while a server restarts, one may take its
# port, and a client that retries may even be given the port it calls, and talk to itself.
_CANDIDATES = range(15000, 32000)


def free_port() -> int:
    """Return a port that nothing listens on now.

    Raises:
        OSError: none was found in a thousand tries.
    """
    for _ in range(1000):
        port = random.choice(_CANDIDATES)  # noqa: S311 - spreads servers out, protects nothing
        if is_free(port):
            return port
    raise OSError("No free port was found between 15000 and 32000. Stop some servers and retry.")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
