"""Which network of a run is recommended, and by how much it is better."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.recommendation import difference, fastest_file, recommend
from gemkit.records import Baseline, HoldOut, Latency, Measurement, Model, Recommendation
from gemkit.store import Run

CELL = Cell(("input", "conv1x1"), ((0, 1),), "sum")


def judged(*wrong: int, images: int = 100, loss: float | None = None) -> HoldOut:
    return HoldOut(1 - len(wrong) / images, images, wrong, loss)


def found(id: str, holdout: HoldOut | None, **more: Any) -> Model:
    return Model(id=id, cell=CELL, holdout=holdout, **{"state": "done", "macs": 1000, **more})


def known(id: str, holdout: HoldOut | None, **more: Any) -> Baseline:
    return Baseline(id=id, holdout=holdout, **{"state": "done", "macs": 1000, **more})


def test_the_best_on_the_hold_out_is_recommended_whatever_the_test_says() -> None:
    models = [
        found("first", judged(1, 2, 3), accuracy=0.99),
        found("second", judged(1, 2), accuracy=0.91),
    ]
    told = recommend(models, [known("resnet8", judged(2, 5, 6, 7), accuracy=0.95)])
    assert told is not None
    assert (told.id, told.kind, told.images, told.holdout_accuracy) == (
        "second",
        "found",
        100,
        0.98,
    )
    assert (told.accuracy, told.rival) == (0.91, "resnet8")
    assert told.better_by == pytest.approx(0.02)
    assert told.test_better_by == pytest.approx(-0.04)
    told = recommend(models, [known("resnet8", judged(9), accuracy=0.5)])
    assert told is not None
    assert (told.id, told.kind, told.rival) == ("resnet8", "known", "second")


def test_of_equals_the_one_of_the_lowest_loss_is_recommended() -> None:
    models = [
        found("unsure", judged(1, loss=0.4)),
        found("sure", judged(2, loss=0.2), macs=2000),
        found("worse", judged(1, 2, loss=0.1)),
    ]
    told = recommend(models, [known("resnet8", judged(3, loss=0.3))])
    assert told is not None
    assert (told.id, told.kind, told.rival) == ("sure", "found", "resnet8")
    assert (told.equal, told.chosen_by) == (("resnet8", "unsure"), "loss")
    told = recommend(models, [known("resnet8", judged(3, loss=0.1))])
    assert told is not None
    assert (told.id, told.kind, told.rival) == ("resnet8", "known", "sure")
    told = recommend(models, [known("resnet8", judged(loss=9.0))])
    assert told is not None
    assert (told.id, told.equal, told.chosen_by) == ("resnet8", (), None)


@pytest.mark.parametrize("loss", [None, 0.3])
def test_of_equals_whose_losses_say_nothing_the_cheaper_is_recommended(loss: float | None) -> None:
    models = [
        found("dear", judged(1, loss=0.3), macs=2000),
        found("cheap", judged(2, loss=0.3), macs=1500),
    ]
    told = recommend(models, [known("cheapest", judged(3, loss=loss), macs=1000)])
    assert told is not None
    assert (told.id, told.rival) == ("cheapest", "cheap")
    assert (told.equal, told.chosen_by) == (("cheap", "dear"), "macs")


def test_what_failed_or_was_not_judged_is_not_recommended() -> None:
    failed = found("slow", judged(), state="failed", error="over the budget")
    assert recommend([failed, found("older", None)], [known("resnet8", None)]) is None
    told = recommend([failed, found("fits", judged(1, 2))], [])
    assert told == Recommendation("fits", "found", 100, 0.98)


def test_the_interval_of_a_difference_is_that_of_matched_pairs(seed: int) -> None:
    # Agresti and Min (2005): half an image added in each field, by hand.
    better_by, (low, high) = difference(judged(0, 1), judged(0, *range(2, 12)))
    assert better_by == pytest.approx(0.09)
    middle, half = (10.5 - 1.5) / 102, 1.959964 * (12 - 81 / 102) ** 0.5 / 102
    assert (low, high) == (pytest.approx(middle - half), pytest.approx(middle + half))
    # Without a difference there is still room for one.
    better_by, (low, high) = difference(judged(3), judged(3))
    assert better_by == 0
    assert low == pytest.approx(-high)
    assert 0 < high < 0.02

    # It holds the truth about 95 times of 100, for networks whose mistakes go together.
    rng = np.random.default_rng(seed)
    inside = 0
    for _ in range(1000):
        hard = rng.random(300) < 0.2
        ours, theirs = hard & (rng.random(300) < 0.6), hard & (rng.random(300) < 0.8)
        pair = [judged(*np.flatnonzero(one).tolist(), images=300) for one in (ours, theirs)]
        low, high = difference(*pair)[1]
        inside += low <= 0.2 * (0.8 - 0.6) <= high
    assert 920 <= inside <= 980


@pytest.mark.parametrize(
    ("budget", "target", "expected"),
    [
        (Budget(macs=5000, latency_ms=1.0), None, "resnet8"),
        (Budget(macs=5000), "raspberry-pi-4", "resnet8"),
        (Budget(macs=5000, latency_ms=1.0), "raspberry-pi-4", "found"),  # unknown how slow there
    ],
)
def test_a_run_says_which_network_it_recommends(
    budget: Budget, target: str | None, expected: str, tmp_path: Path
) -> None:
    config = {"budget": budget.to_json(), "seed": 1, "data": "digits", "target": target}
    with Run.create(tmp_path / "run", config) as run:
        assert run.recommendation() is None
        assert run.content().to_json()["recommended"] is None
        run.put(found("found", judged(1, 2, 3), accuracy=0.9))
        run.put(known("resnet8", judged(1), accuracy=0.8))
        told = run.recommendation()
        assert told is not None
        assert told.id == expected
        shown = run.content().to_json()
        assert shown["recommended"] == expected
        assert shown["recommendation"]["holdout_accuracy"] == told.holdout_accuracy
        assert shown["models"][0]["extra"]["holdout"]["wrong"] == [1, 2, 3]
        assert run.models()[0].holdout == judged(1, 2, 3)


def measured(precision: str, p50: float, accuracy: float | None, threads: int = 1) -> Measurement:
    return Measurement(
        model=f"{precision}.onnx",
        provider="CPUExecutionProvider",
        precision=precision,
        threads=threads,
        batch=1,
        latency_ms=Latency(p50),
        throughput=1e3 / p50,
        load_ms=1.0,
        file_bytes=1,
        accuracy=accuracy,
    )


def test_the_fastest_file_is_taken_unless_it_costs_accuracy() -> None:
    fp32, int8 = measured("fp32", 1.0, 0.9), measured("int8", 0.5, 0.895)
    assert fastest_file([fp32, int8]) is int8
    assert fastest_file([int8, fp32, measured("fp16", 0.7, 0.9)]) is int8
    # More than a point lost, or hardly faster: the fp32 file.
    assert fastest_file([fp32, measured("int8", 0.5, 0.88)]) is fp32
    assert fastest_file([fp32, measured("int8", 0.99, 0.9)]) is fp32
    assert fastest_file([fp32, measured("int8", 2.0, 0.9)]) is fp32
    # Nothing to choose between: one file, or none measured under the usual conditions.
    assert fastest_file([fp32]) is None
    assert fastest_file([fp32, measured("int8", 0.1, 0.9, threads=2)]) is None
    assert fastest_file([int8, measured("int8", 0.4, 0.9)]) is None
    # Files of others say no accuracy.
    unknown = measured("int8", 0.5, None)
    assert fastest_file([measured("fp32", 1.0, None), unknown]) is unknown
