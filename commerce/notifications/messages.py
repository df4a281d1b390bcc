"""Turns a template and its data into a mail that no data can turn into something else.

Templates are ours, data is the customer's: the environment is sandboxed, HTML is escaped, a missing
value is an error, and the e-mail package refuses line breaks in headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from jinja2 import PackageLoader, StrictUndefined, TemplateError, select_autoescape
from jinja2.sandbox import SandboxedEnvironment
from pydantic import JsonValue

SUBJECTS = {"receipt": "Your receipt"}
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
    digits = _DIGITS.get(currency, 2)
    if digits == 0:
        return f"{amount} {currency}"
    whole, part = divmod(amount, 10**digits)
    return f"{whole}.{part:0{digits}} {currency}"


_environment = SandboxedEnvironment(
    loader=PackageLoader("commerce.notifications"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
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
) -> EmailMessage:
    """Return the mail, with a text part and, if there is one, an HTML part.

    Raises:
        UnusableMessageError: an address or the subject can't stand in a header.
    """
    message = EmailMessage(policy=SMTP)
    try:
        message["Message-ID"] = message_id
        message["Date"] = formatdate()
        message["From"] = sender
        message["To"] = to
        message["Subject"] = subject
    except ValueError as error:
        unusable = f"the mail can't be addressed: {error}"
        raise UnusableMessageError(unusable) from error
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message
