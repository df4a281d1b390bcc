"""Settings that only the API reads."""

from __future__ import annotations

from limits import parse
from pydantic import Field, field_validator

from commerce.notifications.channels import ChannelSettings
from commerce.notifications.signing import WebhookSettings
from goodsyard.settings import EngineSettings


class ApiSettings(EngineSettings, ChannelSettings, WebhookSettings):
    """What the API needs besides Postgres and Redis."""

    api_rate: str = Field(
        default="6000/minute",
        description="Requests an API key may make; keys marked unlimited are spared.",
        examples=["600/minute"],
    )
    api_failures_rate: str = Field(
        default="60/minute",
        description="Requests without a valid key that an address may make before it gets 429.",
        examples=["60/minute"],
    )

    @field_validator("api_rate", "api_failures_rate")
    @classmethod
    def _is_a_rate(cls, value: str) -> str:
        parse(value)
        return value
