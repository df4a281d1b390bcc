"""A mail says what its template says, whatever the data; what can't be a mail is refused."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import get_args
from uuid import uuid4

import pytest
from pydantic import JsonValue, ValidationError

from commerce.notifications.messages import (
    SUBJECTS,
    UnusableMessageError,
    compose,
    mailbox,
    render,
)
from tasks.contracts import SendEmail, Template

RECEIPT: dict[str, JsonValue] = {"order_id": "0192", "total": 1_234, "currency": "EUR"}
EVERYTHING = RECEIPT | {"amount": 1_234}


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
    subject, text, html = render(template, EVERYTHING)
    assert subject == SUBJECTS[template]
    for body in (text, html):
        assert "0192" in body
        assert ("12.34 EUR" in body) == (template != "cancellation")


def test_every_template_can_be_asked_for() -> None:
    assert set(get_args(Template)) == set(SUBJECTS)


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


@pytest.mark.parametrize("mark", ["\x00", "\x1b", "\r", "\x7f", "\x9b", "\u202e", "\u2067"])
def test_what_a_terminal_would_obey_is_left_out(mark: str) -> None:
    _, text, html = render("receipt", RECEIPT | {"order_id": f"01{mark}92"})
    assert mark not in text
    assert mark not in html
    assert "0192" in text


def test_what_is_meant_to_be_read_stays() -> None:
    wanted = "Zoë 山田\t👩\u200d🚀\n"
    _, text, html = render("receipt", RECEIPT | {"order_id": wanted})
    assert wanted in text
    assert wanted in html


@pytest.mark.parametrize("total", ["12", None, [1], {}, 12.5])
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
        "content-type", "mime-version", "content-transfer-encoding", "auto-submitted", "message-id",
        "date", "from", "to", "subject",
    }  # fmt: skip


@pytest.mark.parametrize("to", ["ann@example.com\r\nBcc: eve@example.com", "ann\n@example.com"])
def test_an_address_cannot_smuggle_a_header_in(to: str) -> None:
    with pytest.raises(UnusableMessageError, match="can't stand in a mail's header"):
        composed(to=to)


def test_no_answering_machine_is_to_answer() -> None:
    assert composed()["Auto-Submitted"] == "auto-generated"


def test_the_domain_of_an_address_is_written_in_ascii() -> None:
    assert mailbox("ann@example.com") == "ann@example.com"
    assert mailbox("ann@bücher.example") == "ann@xn--bcher-kva.example"
    assert mailbox("ann@straße.example") == "ann@xn--strae-oqa.example", "as of 2008, not of 2003"


@pytest.mark.parametrize("to", ["zoë@example.com", "ann@ex\u202eample.com", "ä"])
def test_an_address_that_not_every_server_takes_is_refused(to: str) -> None:
    with pytest.raises(UnusableMessageError):
        mailbox(to)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "ann",
        "@example.com",
        "ann@",
        "ann@example.com, eve@example.com",
        "ann@example.com,eve@example.com",
        "Ann <ann@example.com>",
        "<ann@example.com>",
        "ann@example.com> SIZE=0",
        "ann@example.com\r\nRCPT TO:<eve@example.com>",
        "ann@example.com\n",
        "ann\x00@example.com",
        f"{'a' * 320}@example.com",
    ],
)
def test_a_mail_goes_to_one_address_and_nothing_else(to: str) -> None:
    with pytest.raises(ValidationError, match="to"):
        SendEmail(to=to, template="receipt", about=uuid4())
