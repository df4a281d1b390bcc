"""Sends short messages to services that an operator named: Slack, Telegram, SMS and so on.

A caller chooses among the names that its tenant was given and never says where a request goes: the
addresses hold secrets and can reach anything, so they are settings and no part of a message. None
of these services knows a message by an id of ours, so that a message is sent once at the most.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias
from urllib.parse import quote

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from goodsyard.settings import Settings

if TYPE_CHECKING:
    import apprise

TO = "{to}"
"""Where in a channel's address the caller's ``to`` is put in."""

_NAME = re.compile(r"[^/]+/(?!(email|webhook)$)[a-z][a-z0-9-]{0,49}")
_SOMEBODY = re.compile(r"[A-Za-z0-9@+#._-]{1,100}")  # one of them, in one piece of a path
_ANYBODY = "15550100"


def channel_key(tenant: str, name: str) -> str:
    """Return what a tenant's channel is called in the settings."""
    return f"{tenant}/{name}"


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error


class ChannelSettings(Settings):
    """The services that messages can be sent to, each a tenant's and by name."""

    notification_channels: Annotated[
        Mapping[str, SecretStr], NoDecode, BeforeValidator(_parsed)
    ] = Field(
        default_factory=dict,
        description="Channels of `POST /v1/notifications` besides e-mail and webhooks: a JSON "
        "object of `TENANT/NAME` and an Apprise URL each; `{to}` in its path is what the caller "
        "sends as `to`.",
        examples=['{"shop/alerts": "slack://TOKEN_A/TOKEN_B/TOKEN_C/%23orders"}'],
    )

    @field_validator("notification_channels")
    @classmethod
    def _are_usable(cls, channels: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for name, address in channels.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not of the form TENANT/NAME, as in shop/alerts")
            Channel(name, address)
        return channels


@dataclass(frozen=True, slots=True)
class Delivered:
    """The service took it."""


@dataclass(frozen=True, slots=True)
class NotAddressed:
    """There is no such channel, or it takes another ``to``: nothing was sent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The service didn't say that it took it: it may have."""

    detail: str


ChannelAnswer: TypeAlias = Delivered | NotAddressed | Undelivered


class Channel:
    """A service that messages are sent to, under the name that an operator gave it."""

    def __init__(self, name: str, address: SecretStr) -> None:
        """Use the service at ``address``, an Apprise URL.

        Raises:
            ValueError: no service is reached by such an address, or its ``{to}`` is where it would
                choose the host. The message doesn't show the address.
        """
        self.name = name
        self._address = address.get_secret_value()
        self._asks = TO in self._address
        authority = re.split(r"[/?#]", self._address.partition("://")[2], maxsplit=1)[0]
        if TO in authority or TO in self._address.partition("://")[0]:
            raise ValueError(f"the address of {name} has {TO} in its host: put it into its path")
        if self._service(_ANYBODY) is None:
            raise ValueError(f"the address of {name} is none that Apprise knows how to reach")

    def why_not(self, to: str | None) -> str | None:
        """Return what is wrong with ``to``, if anything is."""
        if to is None:
            return f"the channel {self.name} asks for somebody to reach" if self._asks else None
        if not self._asks:
            return f"the channel {self.name} reaches who it reaches: leave `to` out"
        return None if _SOMEBODY.fullmatch(to) else f"{to!r} is no number, name or #channel"

    async def send(self, to: str | None, subject: str, body: str) -> ChannelAnswer:
        """Send a text, to ``to`` where the channel takes one; its own threads do the waiting."""
        if (why := self.why_not(to)) is not None:
            return NotAddressed(why)
        service = self._service(to or "")
        if service is None:
            return NotAddressed(f"{to!r} is nobody that the channel {self.name} can reach")
        result = await service.async_notify(title=subject, body=body, body_format="text")
        if result:
            return Delivered()
        said = [
            entry.message
            for one in result.results
            for entry in one.logs()
            if entry.level in {"WARNING", "ERROR"}
        ]
        return Undelivered(" ".join(said) or f"the channel {self.name} didn't take it")

    def _service(self, to: str) -> apprise.Apprise | None:
        """Return the service, or ``None`` if nothing can be reached by its address."""
        # It takes half a second to load, which nobody without a channel need wait for.
        import apprise  # noqa: PLC0415 - as said

        asset = apprise.AppriseAsset(
            app_id="Goodsyard",
            app_desc="Goodsyard",
            app_url="",
            allow_templates=False,  # a message is text and never a template
            storage_mode=apprise.PersistentStoreMode.MEMORY,
        )
        service = apprise.Apprise(asset=asset)
        known = service.add(self._address.replace(TO, quote(to, safe="")))
        return service if known else None


class Channels:
    """All channels there are, by the name they have in the settings."""

    def __init__(self, settings: ChannelSettings | None = None) -> None:
        """Have those of the settings; none without."""
        addresses = settings.notification_channels if settings else {}
        self._channels = {name: Channel(name, at) for name, at in addresses.items()}

    def find(self, tenant: str, name: str) -> Channel | None:
        """Return a tenant's channel."""
        return self._channels.get(channel_key(tenant, name))

    def of(self, tenant: str) -> list[str]:
        """Return the names of a tenant's channels."""
        mine = channel_key(tenant, "")
        return sorted(n.removeprefix(mine) for n in self._channels if n.startswith(mine))

    async def send(self, key: str, to: str | None, subject: str, body: str) -> ChannelAnswer:
        """Send a text to the channel that the settings call ``key``."""
        channel = self._channels.get(key)
        if channel is None:
            return NotAddressed(f"there is no channel {key} any more")
        return await channel.send(to, subject, body)
