"""Settings that only the API reads."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field, field_validator

from commerce.accounts.plans import FREE, PLANS, STANDARD, UNLIMITED
from commerce.notifications.channels import ChannelSettings
from commerce.notifications.signing import WebhookSettings
from commerce.payments.events import EventSettings
from goodsyard.settings import EngineSettings
from producers.rate_limit import Rate

Group: TypeAlias = Literal["read", "write", "bulk"]
"""Which calls are counted together: those that read, those that change, and those of many things
in one body."""

_DEFAULT_RATES: Final = {
    f"{FREE}/read": "600/minute",
    f"{FREE}/write": "120/minute",
    f"{FREE}/bulk": "10/minute",
    f"{STANDARD}/read": "6000/minute",
    f"{STANDARD}/write": "6000/minute",
    f"{STANDARD}/bulk": "300/minute",
}


def _is_rate(text: str) -> str:
    Rate.parse(text)
    return text


RateText = Annotated[str, AfterValidator(_is_rate)]


class ApiSettings(EngineSettings, ChannelSettings, WebhookSettings, EventSettings):
    """What the API needs besides Postgres and Redis."""

    api_rates: dict[str, RateText] = Field(
        default_factory=dict,
        description="Requests a key or a person may make, by PLAN/GROUP; others keep their rates.",
        examples=['{"free/read": "600/minute", "standard/bulk": "300/minute"}'],
    )
    api_failures_rate: RateText = Field(
        default="60/minute",
        description="Requests without a valid key that an address may make before it gets 429.",
        examples=["60/minute"],
    )
    api_sign_in_rate: RateText = Field(
        default="10/minute",
        description="Failed sign-ins from an address, and under a name, before they get 429.",
        examples=["10/minute"],
    )

    @field_validator("api_rates")
    @classmethod
    def _are_of_plans(cls, rates: dict[str, str]) -> dict[str, str]:
        if unknown := rates.keys() - _DEFAULT_RATES.keys():
            known = ", ".join(_DEFAULT_RATES)
            raise ValueError(f"there is no {', '.join(sorted(unknown))}: there are {known}")
        return rates

    @property
    def rates(self) -> dict[tuple[str, Group], Rate]:
        """The rate of each plan that has limits, for each group of calls."""
        return {
            (plan, group): Rate.parse((_DEFAULT_RATES | self.api_rates)[f"{plan}/{group}"])
            for plan in PLANS
            if plan != UNLIMITED
            for group in get_args(Group)
        }
