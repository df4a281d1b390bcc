"""Runs one chunk in a process of its own, which its environment may let die on the way.

python -m tests.mortal DATABASE_URL REDIS_URL KIND JOB FENCE
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from pydantic import SecretStr

from commerce.notifications.postman import Postman
from commerce.notifications.signing import WebhookSettings
from goodsyard.database import open_engine, session_factory
from goodsyard.flow import Handler
from tasks.contracts import SendWebhook
from tasks.webhooks import Webhook
from tests.saga import SECRET_KEY
from tests.yard import NOTES, Ask, Asker, Note, connect


async def main(database_url: str, redis_url: str, kind: str, job: str, fence: str) -> None:
    """Run the chunk to its end."""
    engine = open_engine(database_url, pool_size=2, application_name="mortal")
    sessions = session_factory(engine)
    settings = WebhookSettings(secret_key=SecretStr(SECRET_KEY), webhook_allow_private=True)
    handlers: dict[str, Handler] = {
        Note.kind: NOTES,
        Ask.kind: Asker(),
        SendWebhook.kind: Webhook(Postman(settings), sessions),
    }
    async with connect(sessions, redis_url) as yard:
        await yard.run(handlers[kind], [(UUID(job), int(fence))])
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
