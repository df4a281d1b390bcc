"""The settings table names every setting there is, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Imported for their groups of settings, which are then found as subclasses.
import commerce.notifications.channels
import commerce.notifications.mailer
import commerce.payments.gateway
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
