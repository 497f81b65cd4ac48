"""Figures as people read them."""

from gemkit.app import formatting


def test_words() -> None:
    assert formatting.duration(0.2) == "1 second"
    assert formatting.duration(61) == "61 seconds"
    assert formatting.duration(600) == "10 minutes"
    assert formatting.duration(3 * 3600) == "3.0 hours"
    assert formatting.number(1, "trial") == "1 trial"
    assert formatting.number(2, "query", "queries") == "2 queries"
    assert formatting.percent(None) == formatting.NONE
