"""A file of orders is read as it stands, and what can't be read is refused by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.importer.reading import (
    COLUMNS,
    MAX_LINE_BYTES,
    MAX_ROWS,
    Draft,
    Entry,
    FormatError,
    Refusal,
    read_orders,
)

HEADER = ",".join(COLUMNS)
ROW = "{key},anna@example.com,EUR,{sku},{quantity},{amount},pm_card_visa"


def row(key: str, sku: str = "CD", quantity: object = 1, amount: object = 1499) -> str:
    return ROW.format(key=key, sku=sku, quantity=quantity, amount=amount)


def read(
    tmp_path: Path, *lines: str | bytes, name: str = "orders.csv", end: bytes = b"\n"
) -> list[Entry]:
    file = tmp_path / name
    raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
    file.write_bytes(end.join(raw) + end)
    return list(read_orders(file))


def read_csv(tmp_path: Path, *rows: str | bytes) -> list[Entry]:
    return read(tmp_path, HEADER, *rows)


def drafts(entries: list[Entry]) -> list[Draft]:
    return [entry for entry in entries if isinstance(entry, Draft)]


def refusals(entries: list[Entry]) -> list[tuple[int, str]]:
    return [(entry.rows.line, entry.reason) for entry in entries if isinstance(entry, Refusal)]


# CSV


def test_adjacent_rows_of_a_key_are_the_lines_of_one_order(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, row("1", "CD", 2, 1466), row("1", "LP", 1, 1467), row("2"))
    first, second = drafts(entries)
    assert first.email == "anna@example.com"
    assert first.body == {
        "idempotency_key": "1",
        "currency": "EUR",
        "lines": [
            {"sku": "CD", "quantity": 2, "unit_amount": 1466},
            {"sku": "LP", "quantity": 1, "unit_amount": 1467},
        ],
        "payment_method": "pm_card_visa",
    }
    assert (first.rows.line, second.rows.line) == (2, 4)


def test_a_key_that_comes_back_later_is_refused_and_the_first_order_stays(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, row("1"), row("2"), row("1"))
    assert [draft.body["idempotency_key"] for draft in drafts(entries)] == ["1", "2"]
    assert refusals(entries) == [
        (4, "order_key 1 came before: the rows of an order stand together")
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (row("2", quantity="two"), "line 3: quantity is no integer: 'two'"),
        (row("2", amount="14.99"), "line 3: unit_amount is no integer: '14.99'"),
        (row("2", amount="1e3"), "line 3: unit_amount is no integer: '1e3'"),
        (row(""), "line 3: order_key is empty"),
        ("2,anna@example.com,EUR,CD,1", "line 3: it has 5 fields instead of 7"),
        ('2,"anna,EUR,CD,1,1499,pm', "line 3: it is not CSV: unexpected end of data"),
        (b"2,\xff,EUR,CD,1,1499,pm", "line 3: it is not UTF-8 (invalid start byte at byte 2)"),
    ],
)
def test_a_broken_row_is_refused_with_its_line_and_the_others_go_on(
    tmp_path: Path, broken: str | bytes, reason: str
) -> None:
    entries = read_csv(tmp_path, row("1"), broken, row("3"))
    assert [draft.body["idempotency_key"] for draft in drafts(entries)] == ["1", "3"]
    assert refusals(entries) == [(3, reason)]


def test_an_order_with_one_broken_row_is_left_out_whole(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, row("1"), "1,anna@example.com", row("1"), row("2"))
    assert [draft.body["idempotency_key"] for draft in drafts(entries)] == ["2"]
    assert refusals(entries) == [(2, "line 3: it has 2 fields instead of 7")]


def test_an_order_whose_rows_contradict_each_other_is_refused(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, row("1"), row("1").replace("EUR", "USD"))
    assert refusals(entries) == [(2, "line 3: another currency than in the row above")]


def test_an_order_of_absurd_length_is_refused_without_being_held(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, *[row("1")] * (MAX_ROWS + 2), row("2"))
    assert [draft.body["idempotency_key"] for draft in drafts(entries)] == ["2"]
    assert [line for line, _ in refusals(entries)] == [2, MAX_ROWS + 3]


@pytest.mark.parametrize("header", ["order_key,email", "", HEADER.replace("sku", "article")])
def test_a_csv_file_with_other_columns_is_refused_as_a_whole(tmp_path: Path, header: str) -> None:
    with pytest.raises(FormatError, match="begins with its columns"):
        read(tmp_path, header, row("1"))


def test_a_byte_order_mark_and_crlf_are_no_part_of_the_text(tmp_path: Path) -> None:
    entries = read(tmp_path, b"\xef\xbb\xbf" + HEADER.encode(), row("1"), end=b"\r\n")
    assert [draft.body["payment_method"] for draft in drafts(entries)] == ["pm_card_visa"]


# NDJSON


def read_ndjson(tmp_path: Path, *lines: str | bytes) -> list[Entry]:
    return read(tmp_path, *lines, name="orders.ndjson")


def test_an_ndjson_line_goes_to_the_api_as_it_is(tmp_path: Path) -> None:
    line = '{"idempotency_key": "a", "user_id": "u", "lines": [], "metadata": {"x": [1]}}'
    (draft,) = drafts(read_ndjson(tmp_path, line))
    assert draft.email is None
    assert draft.body == {
        "idempotency_key": "a",
        "user_id": "u",
        "lines": [],
        "metadata": {"x": [1]},
    }


def test_an_address_in_place_of_an_id_is_taken_out_of_the_body(tmp_path: Path) -> None:
    line = '{"idempotency_key": "a", "user_email": "anna@example.com"}'
    (draft,) = drafts(read_ndjson(tmp_path, line))
    assert (draft.email, draft.body) == ("anna@example.com", {"idempotency_key": "a"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is no JSON object"),
        ('{"user_id": "u"}', "idempotency_key is missing"),
        ('{"idempotency_key": 7, "user_id": "u"}', "idempotency_key is missing or no string"),
        ('{"idempotency_key": "a"}', "either user_id or user_email"),
        ('{"idempotency_key": "a", "user_id": "u", "user_email": "e"}', "either user_id or user"),
        ('{"idempotency_key": "a", "user_email": null}', "user_email is no string"),
        (b'"\xff"', "it is not UTF-8"),
    ],
)
def test_an_ndjson_line_that_is_no_order_is_refused_and_the_next_read(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    good = '{"idempotency_key": "b", "user_id": "u"}'
    entries = read_ndjson(tmp_path, line, "", good)
    assert [draft.rows.line for draft in drafts(entries)] == [3]
    ((number, told),) = refusals(entries)
    assert number == 1
    assert reason in told


def test_a_line_without_end_is_refused_and_not_held(tmp_path: Path) -> None:
    entries = read_ndjson(
        tmp_path, b"x" * (2 * MAX_LINE_BYTES), '{"idempotency_key": "b", "user_id": "u"}'
    )
    assert [draft.rows.line for draft in drafts(entries)] == [2]
    ((_, reason),) = refusals(entries)
    assert reason == f"it is longer than {MAX_LINE_BYTES} bytes"


def test_every_byte_but_header_and_blank_lines_is_accounted_for(tmp_path: Path) -> None:
    entries = read_csv(tmp_path, row("1"), "broken", "", row("2"))
    size = (tmp_path / "orders.csv").stat().st_size
    assert sum(entry.rows.size for entry in entries) == size - len(HEADER) - 2
