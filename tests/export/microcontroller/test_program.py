"""Real factors as integers, by exact arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemkit.errors import UserError
from gemkit.export.microcontroller.program import ratio_of

FACTORS = st.floats(2.0**-14, 2.0**10)


@given(st.lists(FACTORS, min_size=1, max_size=4), st.sampled_from([0, 16]))
def test_factors_are_kept_to_31_bits(factors: list[float], before: int) -> None:
    ratio = ratio_of(factors, before=before)
    for factor, multiplier, shift in zip(factors, ratio.multiplier, ratio.shift, strict=True):
        assert 2**30 <= multiplier < 2**31
        assert (33 if before else 1) <= shift <= 62
        found = Fraction(multiplier, 2 ** (shift - before))
        assert abs(found / Fraction(factor) - 1) <= Fraction(1, 2**30)


@given(FACTORS, FACTORS)
def test_factors_of_a_sum_share_a_shift(a: float, b: float) -> None:
    ratio = ratio_of([a, b], before=16, together=True)
    assert ratio.shift[0] == ratio.shift[1]
    for factor, multiplier in zip((a, b), ratio.multiplier, strict=True):
        found = Fraction(multiplier, 2 ** (ratio.shift[0] - 16))
        assert abs(found - Fraction(factor)) <= Fraction(max(a, b)) / 2**30


def test_a_tiny_factor_is_nearly_zero_and_a_huge_one_refused() -> None:
    assert ratio_of([1e-30]).multiplier == (0,)
    with pytest.raises(UserError, match="differ by a factor of 1e\\+05: too much"):
        ratio_of([1e5], before=16)
