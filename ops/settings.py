"""Settings that only the command line reads."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator

from goodsyard.settings import Settings, load
from ops.errors import CommandError


class FlowerSettings(Settings):
    """Who may open Flower."""

    flower_basic_auth: SecretStr = Field(
        description="Who may open Flower: user and password.", examples=["goodsyard:PASSWORD"]
    )

    @field_validator("flower_basic_auth")
    @classmethod
    def _has_two_parts(cls, value: SecretStr) -> SecretStr:
        user, _, password = value.get_secret_value().partition(":")
        if not user or not password:
            raise ValueError("it is no user and password with a colon between them")
        return value


class SandboxSettings(Settings):
    """What the sandbox shares with those who take its events in."""

    gateway_webhook_secret: SecretStr = Field(
        description="Signs the gateway's events.", examples=["whsec_SECRET"]
    )


class ClientSettings(Settings):
    """Where the API is, and the key to it; options of a command come before these."""

    api_url: AnyHttpUrl | None = Field(
        None,
        description="The API, for the commands that call it.",
        examples=["http://127.0.0.1:8000"],
    )
    api_key: SecretStr | None = Field(
        None, description="The key those commands show it.", examples=["gy_live_ID_SECRET"]
    )


def api_and_key(url: str | None, key: str | None) -> tuple[str, str]:
    """Return the address of the API and the key to it, from options or else from settings.

    Raises:
        CommandError: one is in neither.
    """
    settings = load(ClientSettings)
    address = url or (settings.api_url and str(settings.api_url))
    secret = key or (settings.api_key and settings.api_key.get_secret_value())
    if not address:
        raise CommandError("Which API? Give --api, or set GOODSYARD_API_URL.")
    if not secret:
        raise CommandError("No key to the API: set GOODSYARD_API_KEY, or give --api-key.")
    return address, secret
