"""A tenant's own accounts: funds move between them all or not at all, and never below zero.

Both accounts are locked in the order of their ids, so that opposing transfers queue and never wait
in a circle. The accounts that the flow books on (``ledger.SYSTEM``) take no part: their sums are
what the gateway did, and a transfer by hand would make every reconciliation differ.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments.ledger import MOVE, SYSTEM
from commerce.payments.models import Account, Transfer
from commerce.repository import SqlRepository

# Its patience is its own: a request's key has set the transaction's to a quarter of a second, and
# many may queue for a busy account.
_LOCK = text("""
    WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', '3s', true))
    SELECT a.id, a.currency, a.balance, a.may_overdraw
      FROM patience, commerce.account a
     WHERE a.tenant = :tenant AND a.id = ANY(CAST(:ids AS uuid[]))
     ORDER BY a.id
       FOR NO KEY UPDATE OF a
""")

_CHANGE = text("""
    UPDATE commerce.account
       SET balance = balance + CASE id WHEN :to_account THEN :amount ELSE -:amount END
     WHERE tenant = :tenant AND id IN (:from_account, :to_account)
""")

_HOLDER = text("""
    SELECT id FROM commerce.account
     WHERE (tenant, code, currency) = (:tenant, :code, :currency)
""")


class AccountTakenError(Exception):
    """The tenant has an account of this code and currency, or the flow keeps the code."""


class TransferRefusedError(Exception):
    """A transfer can't be; nothing was moved. The classes below say why."""


class UnknownAccountError(TransferRefusedError):
    """The tenant has no account with the id that is the message."""


class FlowsAccountError(TransferRefusedError):
    """One of the accounts is the flow's own."""


class CurrencyMismatchError(TransferRefusedError):
    """The accounts aren't both in the transfer's currency."""


class InsufficientFundsError(TransferRefusedError):
    """There is less on the account than was to be moved."""

    def __init__(self, balance: int) -> None:
        super().__init__(f"the account has {balance}")
        self.balance = balance


class Move(NamedTuple):
    """An amount in minor units, from one account to another one of the same tenant."""

    from_account: UUID
    to_account: UUID
    amount: int
    currency: str


async def open_account(tx: AsyncSession, account: Account) -> None:
    """Open an account with nothing on it.

    Raises:
        AccountTakenError: its code and currency are taken, or its code is the flow's. The
            transaction is over; ``account_called`` finds the account that has them in a new one.
    """
    if account.code in SYSTEM:
        raise AccountTakenError
    try:
        await SqlRepository(tx, Account, account.tenant, Account.id).add(account)
    except IntegrityError as error:
        raise AccountTakenError from error


async def account_called(tx: AsyncSession, tenant: int, code: str, currency: str) -> UUID | None:
    """Return the tenant's account of a code and a currency."""
    parameters = {"tenant": tenant, "code": code, "currency": currency}
    account: UUID | None = await tx.scalar(_HOLDER, parameters)
    return account


async def move(tx: AsyncSession, tenant: int, wish: Move) -> Transfer:
    """Move funds between two different accounts, and return the row of the ledger.

    Raises:
        TransferRefusedError: one of its classes.
    """
    ids = [wish.from_account, wish.to_account]
    rows = await tx.execute(_LOCK, {"tenant": tenant, "ids": ids})
    accounts = {row.id: row for row in rows}
    for account in ids:
        if account not in accounts:
            raise UnknownAccountError(str(account))
        if accounts[account].balance is None:
            raise FlowsAccountError(str(account))
        if accounts[account].currency != wish.currency:
            raise CurrencyMismatchError(accounts[account].currency)
    payer = accounts[wish.from_account]
    if payer.balance < wish.amount and not payer.may_overdraw:
        raise InsufficientFundsError(payer.balance)
    await tx.execute(_CHANGE, {"tenant": tenant, **wish._asdict()})
    transfer = Transfer(
        tenant=tenant,
        debit=wish.to_account,
        credit=wish.from_account,
        amount=wish.amount,
        currency=wish.currency,
        code=MOVE,
    )
    await SqlRepository(tx, Transfer, tenant, Transfer.id).add(transfer)
    return transfer
