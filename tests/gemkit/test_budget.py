"""Budgets: spellings, what is printed back, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemkit.budget import (
    PRECISIONS,
    Budget,
    format_bytes,
    format_count,
    parse_bytes,
    parse_count,
    parse_latency_ms,
)
from gemkit.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40M", 40_000_000),
        ("500k", 500_000),
        ("1.5G", 1_500_000_000),
        ("120000", 120_000),
        (" 3 m ", 3_000_000),
        (".5M", 500_000),
        ("1", 1),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("2ms", 2.0), ("500us", 0.5), ("0.1s", 100.0), ("250µs", 0.25)]
)
def test_latencies(text: str, value: float) -> None:
    assert parse_latency_ms(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64B", 64),
        ("1B", 1),
        ("256kB", 256_000),
        ("256KiB", 262_144),
        ("1MB", 1_000_000),
        ("2MiB", 2_097_152),
        ("1.5GB", 1_500_000_000),
        ("2GiB", 2_147_483_648),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    "text", ["", "fast", "-3M", "0", "0.2", "3 apples", "1e6", "nan", "M", "9" * 400]
)
def test_bad_counts(text: str) -> None:
    with pytest.raises(UserError, match="is no count"):
        parse_count(text)


@pytest.mark.parametrize("text", ["2", "2m", "0ms", "-1ms", "ms", "2 hours"])
def test_bad_latencies(text: str) -> None:
    with pytest.raises(UserError, match="is no latency"):
        parse_latency_ms(text)


@pytest.mark.parametrize("text", ["256", "k", "0kB", "1 block"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UserError, match="is no memory size"):
        parse_bytes(text)


@given(st.integers(1, 10**12))
def test_written_counts_read_back_to_three_digits(value: int) -> None:
    assert parse_count(format_count(value)) == pytest.approx(value, rel=0.0051)


@given(st.integers(1, 10**11))
def test_written_sizes_read_back_to_three_digits(value: int) -> None:
    assert parse_bytes(format_bytes(value)) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "count", "size"),
    [
        (1, "1", "1 B"),
        (999, "999", "999 B"),
        (1000, "1k", "1 kB"),
        (98_304, "98.3k", "98.3 kB"),
        (999_499, "999k", "999 kB"),
        (999_500, "1M", "1 MB"),  # its three digits are 1.00 of the next unit
        (3_000_000, "3M", "3 MB"),
        (999_500_000, "1G", "1 GB"),
        (1_500_000_000, "1.5G", "1.5 GB"),
        (2 * 10**13, "20000G", "20000 GB"),
    ],
)
def test_counts_and_sizes_as_people_write_them(value: int, count: str, size: str) -> None:
    assert format_count(value) == count
    assert format_bytes(value) == size


def test_bytes_of_a_value() -> None:
    kinds = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
    assert {name: np.dtype(kind).itemsize for name, kind in kinds.items()} == PRECISIONS


def test_description_and_round_trip() -> None:
    budget = Budget(macs=3_000_000, params=100_000, latency_ms=0.2, memory_bytes=256_000)
    assert budget.describe() == (
        "at most 3M MACs, at most 100k params, at most 256 kB of activations (fp32), "
        "at most 0.2 ms (fp32)"
    )
    assert Budget.from_json(budget.to_json()) == budget
    assert Budget().describe() == "no limits"
    assert Budget.from_json(Budget().to_json()) == Budget()
    assert Budget.from_json({}) == Budget()


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"macs": "3M"},
        {"flops": 3},
        {"macs": -1},
        {"macs": 0},
        {"latency_ms": 0.0},
        {"precision": None},
        {"precision": "fp8"},
        {"params": True},
        {"latency_ms": float("nan")},
        {"macs": 10**400},
    ],
)
def test_what_is_no_budget_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"^config\.json: "):
        Budget.from_json(value, "config.json")
