"""The sandbox's keys live as long as Stripe's, its forms fold as Stripe's, its journal is exact."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.sandbox import form
from ops.sandbox.calls import Call
from ops.sandbox.errors import GatewayError
from ops.sandbox.journal import Journal, JournalError
from ops.sandbox.keys import LIFETIME_MS, IdempotencyKeys, fingerprint


def call(key: str, at: int = 0) -> Call:
    return Call(at=at, key=key, fingerprint="same", status=HTTPStatus.INTERNAL_SERVER_ERROR)


def answered(key: str, at: int = 0) -> IdempotencyKeys:
    keys = IdempotencyKeys()
    assert keys.begin(key, "same", at) is None
    keys.remember(call(key, at))
    keys.release(key)
    return keys


def test_a_key_is_remembered_for_24_hours_and_then_as_good_as_new() -> None:
    keys = answered("k")
    assert keys.begin("k", "same", LIFETIME_MS - 1) is not None
    assert keys.begin("k", "same", LIFETIME_MS) is None


def test_expired_keys_are_dropped_and_younger_ones_kept() -> None:
    keys = answered("old")
    keys.remember(call("young", 1))
    keys.remember(call("newest", LIFETIME_MS))
    assert keys.begin("young", "same", LIFETIME_MS) is not None
    assert keys.begin("old", "other", LIFETIME_MS) is None


def test_a_released_key_without_an_answer_is_unused() -> None:
    keys = IdempotencyKeys()
    assert keys.begin("k", "same", 0) is None
    with pytest.raises(GatewayError, match="in progress"):
        keys.begin("k", "same", 0)
    keys.release("k")
    assert keys.begin("k", "other", 0) is None


pairs = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=4)


@given(pairs, st.randoms())
def test_a_fingerprint_depends_on_values_and_not_on_their_order(
    given_pairs: list[tuple[str, str]], random: Random
) -> None:
    shuffled = random.sample(given_pairs, len(given_pairs))
    assert fingerprint("/v1/x", shuffled) == fingerprint("/v1/x", given_pairs)
    assert fingerprint("/v1/x", [*given_pairs, ("more", "")]) != fingerprint("/v1/x", given_pairs)
    assert fingerprint("/v1/y", given_pairs) != fingerprint("/v1/x", given_pairs)


def test_a_fingerprint_tells_a_separator_in_a_value_from_two_values() -> None:
    assert fingerprint("/", [("a", "1&b=2")]) != fingerprint("/", [("a", "1"), ("b", "2")])


def test_a_form_folds_brackets_into_groups() -> None:
    body = b"amount=5&metadata%5Border%5D=7&metadata[note]=&payment_method_types[]=card"
    assert form.parse(form.pairs_of(body)) == {
        "amount": "5",
        "metadata": {"order": "7", "note": ""},
        "payment_method_types": {"0": "card"},
    }


@pytest.mark.parametrize("value", ["1.0", "1e3", "٣", " 1", "", "--1", "9" * 5000])
def test_an_amount_is_a_plain_decimal_integer(value: str) -> None:
    with pytest.raises(GatewayError):
        form.integer(value, "amount", least=0, most=10)


def test_a_form_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(GatewayError):
        form.pairs_of(b"description=\xff")


def test_a_journal_reads_back_what_was_written_at_its_offsets(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    journal = Journal(path)
    offsets = [journal.append({"n": number}) for number in range(3)]
    assert [(offset, record["n"]) for offset, record in journal.records()] == [
        (offset, number) for number, offset in enumerate(offsets)
    ]
    assert journal.record_at(offsets[1]) == {"n": 1}
    journal.close()

    reopened = Journal(path)
    assert reopened.append({"n": 3}) == offsets[2] + len(b'{"n":2}\n')
    reopened.close()


def test_a_torn_last_line_is_cut_off_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n":0}\n' + b"x" * 200_000)
    journal = Journal(path)
    assert [record for _, record in journal.records()] == [{"n": 0}]
    assert path.read_bytes() == b'{"n":0}\n'
    journal.close()


def test_a_broken_line_in_the_middle_is_told_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n":0}\nhalf\n{"n":2}\n')
    journal = Journal(path)
    with pytest.raises(JournalError, match="line 2, is not JSON"):
        list(journal.records())
    journal.close()
    assert path.read_bytes() == b'{"n":0}\nhalf\n{"n":2}\n'
