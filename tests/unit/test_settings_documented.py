"""The settings table names every setting there is, and no other; nothing prints a secret one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

# Imported for their groups of settings, which are then found as subclasses.
import commerce.notifications.channels
import commerce.notifications.mailer
import commerce.payments.gateway
import ops.plan
import ops.settings
import producers.settings
import tasks.expiry
from goodsyard.settings import PREFIX, Settings

DOCUMENTED_GROUPS = (
    commerce.notifications.channels.ChannelSettings,
    commerce.notifications.mailer.MailSettings,
    commerce.payments.gateway.GatewaySettings,
    ops.settings.ClientSettings,
    ops.settings.FlowerSettings,
    ops.settings.SandboxSettings,
    producers.settings.ApiSettings,
    tasks.expiry.ReservationSettings,
)
TABLE = Path(__file__).parents[2] / "docs" / "settings.md"


def groups(base: type[Settings]) -> Iterator[type[Settings]]:
    for group in base.__subclasses__():
        yield group
        yield from groups(group)


def test_every_setting_is_in_the_table_and_every_row_is_a_setting() -> None:
    documented = set(re.findall(rf"^\| `{PREFIX}(\w+)`", TABLE.read_text(), flags=re.MULTILINE))
    existing = {name.upper() for group in DOCUMENTED_GROUPS for name in group.model_fields}
    assert documented == existing


def test_no_group_of_settings_is_forgotten_by_the_table() -> None:
    public = {group for group in groups(Settings) if not group.__name__.startswith("_")}
    listed = set(DOCUMENTED_GROUPS)
    assert all(any(issubclass(known, group) for known in listed) for group in public), public


PLANTED = "correct-horse-battery-staple-correct"
_ADDRESSES: dict[str, object] = {
    "database_url": f"postgresql+psycopg://goodsyard:{PLANTED}@127.0.0.1/goodsyard",
    "redis_url": f"rediss://:{PLANTED}@127.0.0.1:6379/0",
    "broker_url": f"redis://:{PLANTED}@127.0.0.1:6379/1",
    "smtp_url": f"smtp://user:{PLANTED}@mail.example.com:587",
    "flower_basic_auth": f"goodsyard:{PLANTED}",
    "notification_channels": {},
    "mail_from": "shop@example.com",
    "gateway_url": "https://api.stripe.com",
}


def test_no_secret_is_shown_by_whoever_prints_settings() -> None:
    for group in groups(Settings):
        fields = group.model_fields
        secrets = {name: PLANTED for name, field in fields.items() if _holds_a_secret(field)}
        given = {name: value for name, value in (secrets | _ADDRESSES).items() if name in fields}
        settings = group.model_validate(given)
        assert PLANTED not in f"{settings} {settings!r} {[settings]}", group


def test_what_is_called_a_secret_is_kept_as_one() -> None:
    for group in groups(Settings):
        for name, field in group.model_fields.items():
            called_so = re.search(r"(^|_)(key|secret|auth|password|token)$", name)
            assert _holds_a_secret(field) or not called_so, f"{group.__name__}.{name}"


def _holds_a_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))
