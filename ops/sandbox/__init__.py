"""A payment gateway and a mail sink for development that keep a record nobody can talk them out of.

Goodsyard reaches them only through ``GATEWAY_URL`` and ``SMTP_URL``, exactly as it reaches the
real ones. What they have charged and what mail they have taken is theirs to say: a test or a demo
checks the books against ``GET /sandbox/charges`` and ``GET /sandbox/mails``.
"""

from ops.sandbox.app import main
from ops.sandbox.events import EventTarget

__all__ = ["EventTarget", "main"]
