"""What is printed of a comparison of strategies."""

import pytest
from rich.console import Console

from gemkit.app.terminal.comparisons import print_strategies


def test_regrets_of_few_queries_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"regret_after": {"7": 0.125}, "median_queries_to_best": None}
    found = {"queries": 7, "table": "t", "metric": "m", "strategies": {"random": one}}
    print_strategies(found, Console(width=200))
    shown = capsys.readouterr().out
    assert "regret 7" in shown
    assert "0.125" in shown
