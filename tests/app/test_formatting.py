"""Figures as people read them."""

from dataclasses import replace

from gemkit.app import formatting
from gemkit.records import Recommendation


def test_words() -> None:
    assert formatting.duration(0.2) == "1 second"
    assert formatting.duration(61) == "61 seconds"
    assert formatting.duration(600) == "10 minutes"
    assert formatting.duration(3 * 3600) == "3.0 hours"
    assert formatting.number(1, "trial") == "1 trial"
    assert formatting.number(2, "query", "queries") == "2 queries"
    assert formatting.percent(None) == formatting.NONE


def test_a_recommendation_says_which_network_by_how_much_and_how_sure() -> None:
    told = Recommendation("abc", "found", 200, 0.975, 0.96)
    assert formatting.recommendation_line(told) == (
        "recommended: abc, found by the search: 97.50 % of the 200 images kept from all trainings; "
        "on the test images 96.00 %"
    )
    line = formatting.recommendation_line(replace(told, equal=("def",), chosen_by="loss"))
    assert "kept from all trainings, as def with a higher log-loss there; on" in line
    line = formatting.recommendation_line(replace(told, equal=("def", "ghi"), chosen_by="macs"))
    assert "kept from all trainings, as def and ghi with at least as many MACs; on" in line
    unsure = replace(
        told, rival="resnet8", better_by=0.015, interval=(-0.004, 0.034), test_better_by=-0.02
    )
    assert formatting.recommendation_line(unsure) == (
        "recommended: abc, found by the search: 97.50 % of the 200 images kept from all trainings, "
        "1.5 points above the best known network, resnet8 (95 % interval -0.4 to +3.4: too few "
        "images to tell them apart); on the test images 96.00 %, 2.0 points below it"
    )
    sure = replace(unsure, kind="known", id="resnet8", rival="abc", interval=(0.004, 0.03))
    text = formatting.recommendation_line(replace(sure, test_better_by=0.0))
    assert "resnet8, a known network" in text
    assert "above the best network found, abc (95 % interval +0.4 to +3.0);" in text
    assert text.endswith("96.00 %, level with it")
