"""Stripe's form encoding, ``amount=100&metadata[order]=7``, as a mapping of checked values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl

from ops.sandbox.errors import GatewayError, invalid

Form: TypeAlias = Mapping[str, "str | dict[str, str]"]

_INTEGER = re.compile(r"-?[0-9]{1,18}")

MAX_METADATA_KEYS = 50  # https://docs.stripe.com/api/metadata


def parse(pairs: Collection[tuple[str, str]]) -> Form:
    """Fold ``a[b]=c`` pairs into ``{"a": {"b": "c"}}``; deeper nesting stays in the inner name."""
    form: dict[str, str | dict[str, str]] = {}
    for name, value in pairs:
        outer, bracket, inner = name.partition("[")
        if not bracket:
            form[name] = value
            continue
        group = form.setdefault(outer, {})
        if isinstance(group, str):
            raise invalid(f"Invalid object: {outer}", code="parameter_invalid", param=outer)
        group[inner.rstrip("]") or str(len(group))] = value
    return form


def pairs_of(body: bytes) -> list[tuple[str, str]]:
    """Split a request body into its decoded name and value pairs."""
    try:
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True)
    except ValueError as error:  # not UTF-8, or more fields than the parser takes
        raise GatewayError(400, f"The form could not be read: {error}") from error


def refuse_unknown(form: Form, known: Collection[str]) -> None:
    """Refuse the first parameter that is not among ``known``, as Stripe does."""
    for name in form:
        if name not in known:
            raise invalid(
                f"Received unknown parameter: {name}", code="parameter_unknown", param=name
            )


def text(form: Form, name: str) -> str | None:
    """Return a plain parameter; an empty one counts as not given."""
    value = form.get(name)
    if isinstance(value, dict):
        raise invalid(f"Invalid string: {name}", code="parameter_invalid", param=name)
    return value or None


def required(form: Form, name: str) -> str:
    """Return a plain parameter that must be there."""
    value = text(form, name)
    if value is None:
        raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    return value


def flag(form: Form, name: str) -> bool:
    """Return a parameter that is ``true`` or ``false``; not given is false."""
    value = text(form, name)
    if value not in {None, "true", "false"}:
        raise invalid(f"Invalid boolean: {value}", code="parameter_invalid_boolean", param=name)
    return value == "true"


def integer(value: str, name: str, *, least: int, most: int) -> int:
    """Return a decimal integer between ``least`` and ``most``."""
    if not _INTEGER.fullmatch(value):
        raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    number = int(value)
    if number < least:
        raise invalid(
            f"{name} must be at least {least}", code="parameter_invalid_integer", param=name
        )
    if number > most:
        raise invalid(f"{name} must be at most {most}", code=f"{name}_too_large", param=name)
    return number


def metadata(form: Form) -> dict[str, str]:
    """Return the caller's own key and value pairs."""
    given = form.get("metadata") or {}
    if isinstance(given, str):
        raise invalid("Invalid object: metadata", code="parameter_invalid", param="metadata")
    if len(given) > MAX_METADATA_KEYS:
        raise invalid(
            f"Metadata can have up to {MAX_METADATA_KEYS} keys.",
            code="parameter_invalid",
            param="metadata",
        )
    return given
