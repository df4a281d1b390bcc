"""A mail says what its template says, whatever the data; what can't be a mail is refused."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from pydantic import JsonValue

from commerce.notifications.messages import (
    SUBJECTS,
    UnusableMessageError,
    compose,
    render,
)

RECEIPT: dict[str, JsonValue] = {"order_id": "0192", "total": 1_234, "currency": "EUR"}


def composed(
    *,
    to: str = "ann@example.com",
    subject: str = "Hello",
    text: str = "Hi.",
    html: str | None = None,
) -> EmailMessage:
    mail = compose(
        message_id="<0192@example.com>",
        sender="shop@example.com",
        to=to,
        subject=subject,
        text=text,
        html=html,
    )
    parsed = message_from_bytes(mail, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


@pytest.mark.parametrize("template", SUBJECTS)
def test_every_template_has_a_text_and_an_html_form(template: str) -> None:
    subject, text, html = render(template, RECEIPT)
    assert subject == SUBJECTS[template]
    assert "12.34 EUR" in text
    assert "12.34 EUR" in html


def test_data_cannot_become_markup() -> None:
    _, text, html = render("receipt", RECEIPT | {"order_id": "<script>alert(1)</script>"})
    assert "<script>" not in html
    assert "<script>" in text  # where it is no markup


def test_data_cannot_become_a_template() -> None:
    _, text, _ = render("receipt", RECEIPT | {"order_id": "{{ 7 * 7 }}"})
    assert "{{ 7 * 7 }}" in text


def test_a_value_that_is_missing_is_an_error_not_a_gap() -> None:
    with pytest.raises(UnusableMessageError, match="'currency' is undefined"):
        render("receipt", {"order_id": "0192", "total": 1})


@pytest.mark.parametrize("template", ["no-such", "../../../etc/passwd", ""])
def test_a_template_there_is_none_of_is_refused(template: str) -> None:
    with pytest.raises(UnusableMessageError, match="can't be filled"):
        render(template, RECEIPT)


@pytest.mark.parametrize("total", ["12", None, [1], {}])
def test_an_amount_that_is_no_number_is_refused(total: JsonValue) -> None:
    with pytest.raises(UnusableMessageError, match="can't be filled"):
        render("receipt", RECEIPT | {"total": total})


def test_a_mail_carries_what_it_was_made_of() -> None:
    mail = composed(subject="Grüße", text="Für Sie: 5 €", html="<p>Für Sie: 5 €</p>")
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert mail["Message-ID"] == "<0192@example.com>"
    assert mail["Subject"] == "Grüße"
    assert text is not None
    assert text.get_content().strip() == "Für Sie: 5 €"
    assert html is not None
    assert html.get_content().strip() == "<p>Für Sie: 5 €</p>"


def test_a_mail_without_html_is_plain_text() -> None:
    assert composed().get_content_type() == "text/plain"


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
@pytest.mark.parametrize("begin", ["Hello", "Grüße"])
def test_a_subject_cannot_smuggle_a_header_in(begin: str, break_: str) -> None:
    try:
        mail = composed(subject=f"{begin}{break_}Bcc: eve@example.com")
    except UnusableMessageError:
        return
    assert {name.lower() for name in mail.keys()} == {  # noqa: SIM118 - a mail's iterator is untyped
        "content-type", "mime-version", "content-transfer-encoding",
        "message-id", "date", "from", "to", "subject",
    }  # fmt: skip


@pytest.mark.parametrize("to", ["ann@example.com\r\nBcc: eve@example.com", "ann\n@example.com"])
def test_an_address_cannot_smuggle_a_header_in(to: str) -> None:
    with pytest.raises(UnusableMessageError, match="can't stand in a mail's header"):
        composed(to=to)
