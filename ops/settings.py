"""Settings that only the command line reads."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field, SecretStr

from goodsyard.settings import Settings


class FlowerSettings(Settings):
    """Who may open Flower."""

    flower_basic_auth: SecretStr = Field(
        description="Who may open Flower: user and password.",
        examples=["goodsyard:PASSWORD"],
        pattern=r"^[^:\s]+:\S+$",
    )


class ClientSettings(Settings):
    """Where the API is, and the key to it."""

    api_url: AnyHttpUrl = Field(
        description="The API, for the commands that call it.", examples=["http://127.0.0.1:8000"]
    )
    api_key: SecretStr = Field(
        description="The key those commands show it.", examples=["gy_live_ID_SECRET"]
    )
