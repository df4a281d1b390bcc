"""The receipt of a paid order, as the job that mails it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pydantic import JsonValue

from tasks.contracts import SendEmail


def receipt(order_id: UUID, email: str | None, total: int, currency: str) -> Sequence[SendEmail]:
    """Return the job that mails the receipt; none if the customer was erased meanwhile."""
    if email is None:
        return ()
    data: dict[str, JsonValue] = {"order_id": str(order_id), "total": total, "currency": currency}
    # Not validated here: an address that is none must cost its receipt, and never the booking of a
    # charge. Its job is refused when it is claimed.
    mail = SendEmail.model_construct(to=email, template="receipt", data=data, about=order_id)
    return (mail,)
