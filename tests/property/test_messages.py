"""Whatever a mail is about, it has the headers that we gave it and no other."""

from __future__ import annotations

from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage

from hypothesis import given
from hypothesis import strategies as st

from commerce.notifications.messages import UnusableMessageError, compose, render

HEADERS = {
    "content-type", "mime-version", "message-id", "date", "from", "to", "subject",
    "content-transfer-encoding", "auto-submitted",
}  # fmt: skip

anything = st.text(st.characters(codec="utf-8"), max_size=200)
with_breaks = st.lists(st.sampled_from(["\r", "\n", "\r\n", "Bcc: e@x", "é", " ", ":", "a"])).map(
    "".join
)


@given(anything | with_breaks, anything | st.just("ann@example.com"), anything)
def test_no_data_becomes_a_header(subject: str, to: str, body: str) -> None:
    with suppress(UnusableMessageError):
        mail = message_from_bytes(
            compose(
                message_id="<1@example.com>",
                sender="shop@example.com",
                to=to,
                subject=subject,
                text=body,
                html=None,
            ),
            policy=policy.default,
        )
        assert isinstance(mail, EmailMessage)
        assert {name.lower() for name, _ in mail.raw_items()} == HEADERS
        assert mail["Message-ID"] == "<1@example.com>"


@given(anything)
def test_no_data_becomes_markup(order: str) -> None:
    _, _, html = render("receipt", {"order_id": order, "total": 1, "currency": "EUR"})
    _, _, plain = render("receipt", {"order_id": "0", "total": 1, "currency": "EUR"})
    assert html.count("<") == plain.count("<")
