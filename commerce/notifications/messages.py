"""Turns a template and its data into a mail that no data can turn into something else.

Templates are ours, data is the customer's: the environment is sandboxed, HTML is escaped, a missing
value is an error, control characters are left out, and no line break gets into a header.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Mapping
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import formatdate

from email_validator import EmailNotValidError, validate_email
from jinja2 import PackageLoader, StrictUndefined, TemplateError, select_autoescape
from jinja2.sandbox import SandboxedEnvironment
from pydantic import JsonValue

SUBJECTS = {
    "receipt": "Your receipt",
    "refund": "Your refund",
    "cancellation": "Your order was cancelled",
    "payment_failed": "Your payment didn't go through",
}
"""A subject line for each template there is."""

# ISO 4217 lists a few currencies whose minor unit is not a hundredth.
_DIGITS = {"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3} | dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND",
     "VUV", "XAF", "XOF", "XPF"), 0
)  # fmt: skip


class UnusableMessageError(Exception):
    """No mail can be made of this, now or later; the message says why."""


def format_money(amount: int, currency: str) -> str:
    """Return minor units as people write them: ``1234, "EUR"`` is ``12.34 EUR``."""
    amount = operator.index(amount)  # data is JSON: a fraction of a cent, or a text, is an error
    digits = _DIGITS.get(currency, 2)
    if digits == 0:
        return f"{amount} {currency}"
    # Of the absolute value: divmod rounds down, and would write -12.34 as -13.66.
    whole, part = divmod(abs(amount), 10**digits)
    return f"{'-' if amount < 0 else ''}{whole}.{part:0{digits}} {currency}"


# What a terminal or a mail program obeys instead of showing it: control characters other than tab
# and line feed, and the marks that turn the direction of the text around them (Unicode UAX 9).
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str) -> str:
    """Return a text with nothing in it that isn't meant to be read."""
    return text if text.isprintable() else _OBEYED.sub("", text)


def _finalized(value: object) -> object:
    return without_controls(value) if type(value) is str else value


_environment = SandboxedEnvironment(
    loader=PackageLoader("commerce.notifications"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    finalize=_finalized,
    auto_reload=False,
    keep_trailing_newline=True,
)
_environment.filters["money"] = format_money


def render(template: str, data: Mapping[str, JsonValue]) -> tuple[str, str, str]:
    """Return subject, text and HTML of a template.

    Raises:
        UnusableMessageError: no such template, or its data lacks something.
    """
    try:
        text = _environment.get_template(f"{template}.txt").render(data)
        html = _environment.get_template(f"{template}.html").render(data)
        return SUBJECTS[template], text, html
    except (TemplateError, KeyError, TypeError) as error:
        message = f"the template {template!r} can't be filled: {error}"
        raise UnusableMessageError(message) from error


def compose(  # noqa: PLR0913 - these are a mail's parts
    *, message_id: str, sender: str, to: str, subject: str, text: str, html: str | None
) -> bytes:
    """Return the mail as it goes over the wire, with a text part and perhaps an HTML part.

    Built from ``email.mime`` parts: the newer ``EmailMessage`` parses every header it is given by
    the grammar of RFC 5322, at three times the CPU. What it would have refused, ``_header`` does.

    Raises:
        UnusableMessageError: an address or the subject can't stand in a header.
    """
    if any(mark in subject for mark in "\r\n"):
        message = f"{subject!r} can't stand in a mail's header: it has more than one line"
        raise UnusableMessageError(message)
    mail: MIMEBase = MIMEText(text, "plain", "utf-8")
    if html is not None:
        # A boundary of our own spares the search for one that is in no part: base64 has no "=_".
        boundary = f"=_{hashlib.sha256(message_id.encode()).hexdigest()[:32]}"
        mail = MIMEMultipart("alternative", boundary, [mail, MIMEText(html, "html", "utf-8")])
    mail["Message-ID"] = _header(message_id)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answering machine is to answer
    mail["Date"] = formatdate()
    mail["From"] = _header(sender)
    mail["To"] = _header(to)
    mail["Subject"] = (
        Header(subject, "utf-8").encode() if not subject.isascii() else _header(subject)
    )
    return mail.as_bytes(policy=compat32.clone(linesep="\r\n"))


def mailbox(address: str) -> str:
    """Return an address as every mail server takes it, its domain in ASCII (RFC 5890).

    Raises:
        UnusableMessageError: it is none, or what is before the @ is not ASCII.
    """
    if address.isascii():
        return address
    try:
        in_ascii = validate_email(address, check_deliverability=False).ascii_email
    except EmailNotValidError as error:
        raise UnusableMessageError(f"{address!r} is no address: {error}") from error
    if in_ascii is None:
        message = f"{address!r} can't be mailed to: not every server takes such a name before the @"
        raise UnusableMessageError(message)
    return in_ascii


def _header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        message = f"{value!r} can't stand in a mail's header: printable ASCII only"
        raise UnusableMessageError(message)
    return value
