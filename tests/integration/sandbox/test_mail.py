"""Every mail that was taken is in the log, once a delivery, whatever was answered."""

from __future__ import annotations

import signal
import smtplib
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from tests.integration.sandbox.process import Sandbox


def receipt(message_id: str = "<receipt-1@goodsyard.example>") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "shop@goodsyard.example"
    message["To"] = "customer-00004@cdnow.example"
    message["Subject"] = "Ihre Quittung über 14,99 €"
    message["Message-ID"] = message_id
    message.set_content("Vielen Dank!\n.\n..two dots\n")
    return message


def test_every_delivery_is_logged_and_none_deduplicated(sandbox: Sandbox) -> None:
    with sandbox.mailer() as mailer:
        for _ in range(2):
            mailer.send_message(receipt())
    mails = [
        {name: mail[name] for name in ("message_id", "to", "subject")} for mail in sandbox.mails()
    ]
    assert (
        mails
        == [
            {
                "message_id": "<receipt-1@goodsyard.example>",
                "to": "customer-00004@cdnow.example",
                "subject": "Ihre Quittung über 14,99 €",
            }
        ]
        * 2
    )


def test_a_mail_can_be_read_as_it_came(start: Callable[..., Sandbox]) -> None:
    first = start()
    with first.mailer() as mailer:
        mailer.send_message(receipt())
        raw = b"Subject: no UTF-8\r\n\r\n\xa4\xff\r\n"
        mailer.sendmail("shop@goodsyard.example", ["a@cdnow.example", "b@cdnow.example"], raw)
    first.end(signal.SIGKILL)

    second = start()
    assert "Vielen Dank!" in second.http.get("/sandbox/mails/0").text
    assert [mail["to"] for mail in second.mails()[1:]] == ["a@cdnow.example", "b@cdnow.example"]
    assert second.http.get("/sandbox/mails/2").content == raw
    assert second.http.get("/sandbox/mails/3").status_code == 404


@pytest.mark.parametrize("status", [450, 550])
def test_a_mail_that_is_refused_is_not_logged(sandbox: Sandbox, status: int) -> None:
    sandbox.misbehave(f"mail_{status}")
    with sandbox.mailer() as mailer:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            mailer.send_message(receipt())
        assert refused.value.smtp_code == status
        assert sandbox.mails() == []
        mailer.send_message(receipt())
    assert len(sandbox.mails()) == 1


def test_a_mail_whose_answer_was_lost_is_in_the_log(sandbox: Sandbox) -> None:
    sandbox.misbehave("mail_drop_after_data")
    mailer = sandbox.mailer()
    with pytest.raises(smtplib.SMTPServerDisconnected, match=r"closed$"):
        mailer.send_message(receipt())
    mailer.close()
    assert len(sandbox.mails()) == 1


def test_a_mail_past_the_size_limit_is_refused(sandbox: Sandbox) -> None:
    with sandbox.mailer() as mailer:
        mailer.ehlo()
        limit = int(mailer.esmtp_features["size"])
        with pytest.raises(smtplib.SMTPSenderRefused):
            mailer.sendmail("shop@goodsyard.example", ["a@cdnow.example"], b"x" * (limit + 1))
    assert sandbox.mails() == []


def test_a_reader_of_the_log_can_go_on_where_it_was(sandbox: Sandbox) -> None:
    for number in range(3):
        sandbox.pay(key=f"key-{number}")
    every = sandbox.http.get("/sandbox/charges").json()["data"]
    rest = sandbox.http.get("/sandbox/charges", params={"after": len(every) - 2}).json()["data"]
    assert rest == every[-2:]
