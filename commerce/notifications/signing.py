"""Signs webhooks by the Standard Webhooks rules, with secrets that are kept nowhere.

An endpoint's secret is computed from ``SECRET_KEY``, the endpoint and the number of its rotations:
who reads the database, or a copy of it, can sign nothing. See docs/decisions/0007.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import Field, SecretStr
from standardwebhooks import Webhook

from goodsyard.settings import Settings

_PURPOSE = b"goodsyard webhook secret 1"
_PREFIX = "whsec_"


class WebhookSettings(Settings):
    """What webhooks are signed with, and where they may go."""

    secret_key: SecretStr = Field(
        description="The key that secrets and tokens of ours are derived from.",
        examples=["the output of: python3 -c 'import secrets; print(secrets.token_hex(32))'"],
        min_length=32,
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="Whether webhooks may go to private addresses, other ports and without TLS.",
        examples=["false"],
    )


def secret_of(key: SecretStr, endpoint: UUID, generation: int) -> str:
    """Return an endpoint's secret, as its owner is shown it: ``whsec_`` and 256 bits in base64.

    Args:
        key: ``SECRET_KEY``.
        endpoint: whose.
        generation: 1, and one more with each rotation.
    """
    message = b"\0".join([_PURPOSE, endpoint.bytes, str(generation).encode()])
    secret = hmac.digest(key.get_secret_value().encode(), message, hashlib.sha256)
    return _PREFIX + base64.b64encode(secret).decode()


def signed_headers(
    message_id: UUID, body: str, secrets: Sequence[str], at: datetime
) -> dict[str, str]:
    """Return the headers of a webhook, with a signature for each of the secrets.

    Args:
        message_id: the event's, the same whenever it is sent.
        body: as it is sent.
        secrets: the endpoint's; two while a rotation is under way.
        at: the time of this attempt, in UTC.
    """
    signatures = (Webhook(secret).sign(str(message_id), at, body) for secret in secrets)
    return {
        "webhook-id": str(message_id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
