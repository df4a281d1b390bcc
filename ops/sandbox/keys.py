"""Idempotency keys as Stripe keeps them: the first call with a key acts, later ones get its answer.

Source: https://docs.stripe.com/api/idempotent_requests. An answer is remembered once the call has
begun to take effect, a 402 or a 500 like any other; that of a call refused before is not.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from ops.sandbox.calls import Call
from ops.sandbox.errors import GatewayError, key_in_use, key_reused

LIFETIME_MS = 24 * 60 * 60 * 1000
MAX_LENGTH = 255


def fingerprint(path: str, pairs: list[tuple[str, str]]) -> str:
    """Return what two calls with one key must share: address and parameters, in any order."""
    return blake2b(orjson.dumps([path, sorted(pairs)]), digest_size=16).hexdigest()


class IdempotencyKeys:
    """The keys of the last 24 hours, and those whose first call is still under way."""

    def __init__(self) -> None:
        self._answered: dict[str, Call] = {}  # oldest first
        self._in_flight: set[str] = set()

    def begin(self, key: str, parameters: str, now: int) -> Call | None:
        """Claim ``key`` for a call, or return the call that already took effect with it.

        ``parameters`` is the call's fingerprint, ``now`` in Unix milliseconds. Whoever claimed a
        key must ``release`` it, whatever happens.

        Raises:
            GatewayError: the key is too long (400), in use by a call under way (409), or belongs to
                a call with other parameters (400, ``idempotency_error``).
        """
        if len(key) > MAX_LENGTH:
            raise GatewayError(400, f"An idempotency key has at most {MAX_LENGTH} characters.")
        if key in self._in_flight:
            raise key_in_use(key)
        call = self._answered.get(key)
        if call is None or call.at + LIFETIME_MS <= now:
            self._in_flight.add(key)
            return None
        if call.fingerprint != parameters:
            raise key_reused(key)
        return call

    def release(self, key: str) -> None:
        """End the claim on ``key``; without a ``remember`` before, the key is as good as new."""
        self._in_flight.discard(key)

    def remember(self, call: Call) -> None:
        """Answer later calls with this call's key from it."""
        if call.key is None:
            return
        self._answered.pop(call.key, None)  # an expired one would keep its old place in the order
        self._answered[call.key] = call
        self._drop_expired(call.at)

    def forget(self) -> None:
        """Forget every answered key, as happens to each of them after 24 hours."""
        self._answered.clear()

    def _drop_expired(self, now: int) -> None:
        while True:
            key, oldest = next(iter(self._answered.items()))
            if oldest.at + LIFETIME_MS > now:
                return
            del self._answered[key]
