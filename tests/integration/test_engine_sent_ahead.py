"""What is sent ahead of its answers is as good as any other statement: kept or undone, and told."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.database import send_ahead, wait_for_answers
from goodsyard.job import new_id
from tests.yard import Yard, write

UNFIT = text("INSERT INTO public.note VALUES (NULL, 'unfit')")


async def note(tx: AsyncSession, line: str) -> None:
    await write(tx, [(new_id(), line)])


async def test_what_is_sent_ahead_is_committed_with_what_came_before(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await note(tx, "before")
        await send_ahead(tx)
        await note(tx, "ahead")
        await note(tx, "ahead, too")
    assert await yard.notes() == ["ahead", "ahead, too", "before"]


async def test_a_statement_that_fails_ahead_is_told_and_undoes_all_of_the_transaction(
    yard: Yard,
) -> None:
    async def fail_ahead() -> None:
        async with yard.sessions.begin() as tx:
            await note(tx, "before")
            await send_ahead(tx)
            await tx.execute(UNFIT)
            await note(tx, "after")

    with pytest.raises(IntegrityError, match="null value"):
        await fail_ahead()
    assert await yard.notes() == []


async def test_an_exception_undoes_what_was_sent_ahead(yard: Yard) -> None:
    async def give_up() -> None:
        async with yard.sessions.begin() as tx:
            await send_ahead(tx)
            await note(tx, "ahead")
            raise LookupError

    with pytest.raises(LookupError):
        await give_up()
    assert await yard.notes() == []


async def test_who_waits_for_the_answers_may_ask_again(yard: Yard) -> None:
    async with yard.sessions.begin() as tx:
        await send_ahead(tx)
        await note(tx, "ahead")
        await wait_for_answers(tx)
        assert await tx.scalar(text("SELECT line FROM public.note")) == "ahead"


async def test_a_failure_is_told_to_who_waits_for_the_answers(yard: Yard) -> None:
    async with yard.sessions() as tx:
        await send_ahead(tx)
        await tx.execute(UNFIT)
        with pytest.raises(IntegrityError, match="null value"):
            await wait_for_answers(tx)
