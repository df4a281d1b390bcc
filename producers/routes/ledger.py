"""``/v1/accounts`` and ``/v1/transfers``: a tenant's own funds, and the books at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from commerce.accounts.scopes import ADMIN
from commerce.payments import accounts, balances
from commerce.payments.accounts import (
    AccountTakenError,
    CurrencyMismatchError,
    FlowsAccountError,
    InsufficientFundsError,
    Move,
    UnknownAccountError,
    account_called,
    open_account,
)
from commerce.payments.ledger import MOVE
from commerce.payments.models import Account, Transfer
from commerce.repository import SqlRepository
from goodsyard import request_keys
from goodsyard.interventions import record
from producers import ledger_shapes, problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute
from producers.idempotency import RequiredKey, claim, replayed
from producers.ledger_shapes import (
    AccountIn,
    AccountOut,
    TransferIn,
    TransferOut,
    TrialBalance,
    account_href,
)
from producers.order_shapes import Document
from producers.problems import ProblemError, not_found
from producers.services import Services, Use

router = APIRouter(prefix="/v1", tags=["ledger"], route_class=JsonRoute)

Writer = Annotated[Principal, require_scope("ledger:write")]
Reader = Annotated[Principal, require_scope("ledger:read")]


@router.post(
    "/accounts",
    status_code=201,
    response_model=AccountOut,
    responses=problems.refusals(problems.ACCOUNT_TAKEN),
)
async def open_one(body: AccountIn, key: RequiredKey, principal: Writer, use: Use) -> Response:
    """Open an account with nothing on it."""
    if body.may_overdraw:
        principal.require(ADMIN)
    account = Account(
        tenant=principal.tenant,
        code=body.code,
        currency=body.currency,
        may_overdraw=body.may_overdraw,
    )
    try:
        async with use.sessions.begin() as tx:
            holder = await claim(tx, principal.tenant, key, {"account": str(account.id)})
            if holder.won:
                await open_account(tx, account)
                detail: dict[str, JsonValue] = body.model_dump(mode="json")
                await record(tx, principal.actor, "account.open", [str(account.id)], detail)
            else:
                earlier = UUID(str(holder.resource["account"]))
                account = await _find_account(tx, principal.tenant, earlier)
    except AccountTakenError as error:
        raise await _taken(use, principal, body) from error
    shown = ledger_shapes.account(account, account.balance or 0)
    return JsonAnswer(shown, 201, {"Location": shown["href"], **replayed(holder)})


async def _taken(use: Services, principal: Principal, body: AccountIn) -> ProblemError:
    async with use.sessions.begin() as tx:
        account = await account_called(tx, principal.tenant, body.code, body.currency)
    return ProblemError(
        problems.ACCOUNT_TAKEN,
        f"The code {body.code} is taken in {body.currency}. Nothing was opened.",
        headers={"Location": account_href(account)} if account else {},
    )


@router.get("/accounts/{account_id:uuid}", response_model=AccountOut)
async def read_account(account_id: UUID, principal: Reader, use: Use) -> Response:
    """Read an account with its balance."""
    async with use.sessions.begin() as tx:
        row = await _find_account(tx, principal.tenant, account_id)
    balance = row.balance
    if balance is None:
        await balances.sum_up(use.sessions)
        async with use.sessions.begin() as tx:
            balance = await balances.balance_of(tx, principal.tenant, account_id)
    return JsonAnswer(ledger_shapes.account(row, balance))


async def _find_account(tx: AsyncSession, tenant: int, account_id: UUID) -> Account:
    row = await SqlRepository(tx, Account, tenant, Account.id).get(account_id)
    if row is None:
        raise not_found(f"account {account_id}")
    return row


@router.post(
    "/transfers",
    status_code=201,
    response_model=TransferOut,
    responses=problems.refusals(
        problems.NOT_FOUND, problems.INSUFFICIENT_FUNDS, problems.FLOWS_ACCOUNT
    ),
)
async def transfer(body: TransferIn, key: RequiredKey, principal: Writer, use: Use) -> Response:
    """Move funds between two accounts: all of it or nothing, and below zero only where allowed."""
    if body.from_account == body.to_account:
        detail = "The same account as from_account"
        raise problems.validation([{"pointer": "#/to_account", "detail": detail}])
    tenant = principal.tenant
    wish = Move(body.from_account, body.to_account, body.amount, body.currency)
    with _refusals(body):
        async with use.sessions.begin() as tx:
            holder = await claim(tx, tenant, key, {})
            if holder.won:
                moved = await accounts.move(tx, tenant, wish)
                await request_keys.amend(tx, tenant, key.key, {"transfer": str(moved.id)})
                shown = ledger_shapes.transfer(moved)
            else:
                transfer_id = UUID(str(holder.resource["transfer"]))
                shown = await _read_transfer(tx, tenant, transfer_id)
    return JsonAnswer(shown, 201, {"Location": shown["href"], **replayed(holder)})


@router.get("/transfers/{transfer_id:uuid}", response_model=TransferOut)
async def read_transfer(transfer_id: UUID, principal: Reader, use: Use) -> Response:
    """Read a transfer between accounts of the tenant's own."""
    async with use.sessions.begin() as tx:
        return JsonAnswer(await _read_transfer(tx, principal.tenant, transfer_id))


async def _read_transfer(tx: AsyncSession, tenant: int, transfer_id: UUID) -> Document:
    row = await SqlRepository(tx, Transfer, tenant, Transfer.id).get(transfer_id)
    if row is None or row.code != MOVE:
        raise not_found(f"transfer {transfer_id}")
    return ledger_shapes.transfer(row)


@router.get("/reports/trial-balance", response_model=TrialBalance)
async def trial_balance(
    principal: Reader, use: Use, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
) -> Response:
    """Add the ledger up: debits and credits by currency, and by account.

    `balanced` says that both sides are equal in every currency, and that each balance that is kept
    is what its account's transfers come to.
    """
    await balances.sum_up(use.sessions)
    async with use.sessions.begin() as tx:
        totals = await balances.totals(tx, principal.tenant)
        sums = await balances.sums(tx, principal.tenant, limit)
    return JsonAnswer(ledger_shapes.trial_balance(totals, sums))


@contextmanager
def _refusals(body: TransferIn) -> Iterator[None]:
    """Tell the business's refusals as problems."""
    try:
        yield
    except UnknownAccountError as error:
        raise not_found(f"account {error}") from error
    except FlowsAccountError as error:
        raise ProblemError(problems.FLOWS_ACCOUNT) from error
    except CurrencyMismatchError as error:
        detail = f"One of the accounts is in {error}. Nothing was moved"
        raise problems.validation([{"pointer": "#/currency", "detail": detail}]) from error
    except InsufficientFundsError as error:
        raise ProblemError(
            problems.INSUFFICIENT_FUNDS,
            f"{error.balance} is on the account, less than {body.amount}. Nothing was moved.",
            members={"balance": {"amount": error.balance, "currency": body.currency}},
        ) from error
