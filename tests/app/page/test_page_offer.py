"""What the page says first: which network to take, and that this is honest."""

import html
import re
import xml.dom.minidom
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import page_run
from gemkit.app.page import cell_svg, content, facts, names, offer, result
from gemkit.baselines import BASELINES
from gemkit.records import (
    Baseline,
    Compared,
    DataInfo,
    Epoch,
    HoldOut,
    Latency,
    Mistake,
    Model,
    Recommendation,
)
from gemkit.store import Run


def _judged(
    found: float,
    known: float,
    ours: float,
    theirs: float,
    told: Recommendation | None = None,
    files: tuple[str, ...] | None = None,
) -> offer.Offer:
    """The offer of two found networks and a known one, from accuracies and milliseconds."""

    def timed(p50: float) -> Latency:
        return Latency(p50, p50_low=0.99 * p50, p50_high=1.01 * p50)

    cell = page_run.chain(6)
    model = Model(id=cell.id, cell=cell, accuracy=found, latency_ms=timed(ours))
    # By test accuracy it is the better one, but the search ranked it second.
    second = replace(model, id="0123456789", accuracy=1.0)
    others = (
        Baseline(id="resnet8", accuracy=known, latency_ms=timed(theirs)),
        Compared(id="resnet20@1", network="resnet20", accuracy=1.0),
    )
    judged = offer.choose((model, second), others, told, lambda id: files is None or id in files)
    assert judged is not None
    return judged


@pytest.mark.parametrize(("found", "known"), [(0.95, 0.90), (0.90, 0.95)])
def test_without_a_hold_out_the_first_of_the_search_is_offered_and_none_called_better(
    found: float, known: float
) -> None:
    judged = _judged(found, known, 2.0, 1.0)
    assert judged.known is not None
    assert judged.known.id == "resnet8"  # comparisons have limits of their own
    assert (judged.offered, judged.offered.accuracy) == (judged.found, found)
    assert judged.more_accurate is None
    assert judged.faster is judged.known


@pytest.mark.parametrize(("ours", "theirs"), [(1.0, 1.02), (1.0, 1.0)])
def test_alike_times_make_neither_the_faster(ours: float, theirs: float) -> None:
    assert _judged(0.95, 0.90, ours, theirs).faster is None


def test_a_network_without_a_file_is_not_offered_while_another_has_one() -> None:
    judged = _judged(0.9, 0.99, 1.0, 1.0, files=("0123456789",))
    assert (judged.offered.id, judged.known) == ("0123456789", None)


@pytest.mark.parametrize("kind", ["found", "known"])
@pytest.mark.parametrize("sure", [True, False])
def test_what_the_run_recommends_is_offered(kind: str, sure: bool) -> None:
    ids = ("0123456789", "resnet8")
    first, second = ids if kind == "found" else ids[::-1]
    told = Recommendation(
        first,
        kind,  # type: ignore[arg-type]
        200,
        0.97,
        rival=second,
        better_by=0.02,
        interval=(0.01 if sure else -0.01, 0.03),
    )
    judged = _judged(0.99, 0.90, 1.0, 3.0, told)
    assert judged.known is not None
    assert (judged.found.id, judged.known.id, judged.offered.id) == (*ids, first)
    assert (judged.more_accurate is judged.offered) == sure
    assert judged.faster is judged.found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    seed = int(request.config.getoption("--seed"))
    return page_run.make(tmp_path_factory.mktemp("offer") / "My run", seed)


@pytest.fixture
def shown(folder: Path) -> Iterator[content.PageRun]:
    opened = content.PageRun.open(folder)
    yield opened
    opened.close()


def _text(markup: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", markup)).split())


def test_the_offer_says_what_the_records_hold(shown: content.PageRun) -> None:
    text = _text(result.top_html(shown))
    assert "Found 1 gets 95.0 % of the test pictures right" in text
    assert "MobileNetV2, the best known network within the same limits, gets 90.0 % right" in text
    assert "5.0 points fewer" in text
    assert "95 % interval: 92.2 to 96.8 %" in text  # Wilson's, of 342 in 360, by hand
    model, known = shown.content.models[0], shown.content.baselines[0]
    assert model.latency_ms is not None
    assert known.latency_ms is not None
    factor = known.latency_ms.p50 / model.latency_ms.p50
    assert f"Found 1 is the faster one, by a factor of {factor:.1f}" in text
    assert "measured on a processor" in text
    assert "12 designs were tried briefly, the best 2" in text


def test_of_two_that_are_alike_the_faster_is_handed_out_too(tmp_path: Path, seed: int) -> None:
    path = page_run.make(tmp_path / "run", seed)
    with Run.open(path, write=True) as run:
        for one, wrong in ((run.models()[0], (1,)), (run.baselines()[0], (2, 3))):
            holdout = HoldOut(1 - len(wrong) / 200, 200, wrong)
            slow = Latency(0.5 if one.id != "mobilenet_v2" else 0.1)
            run.put(replace(one, accuracy=0.95, holdout=holdout, latency_ms=slow))
    shown = content.PageRun.open(path)
    told = result.top_html(shown)
    shown.close()
    text = _text(told)
    assert "Found 1 gets 95.0 % of the test pictures right, about as many as MobileNetV2" in text
    assert (
        "200 other pictures, kept out of all training, decide which is offered; they show no clear"
        in text
    )
    assert "MobileNetV2 is the faster one, by a factor of 5.0" in text
    assert re.findall('download="([^"]+)"', told) == [
        "run-found-1.onnx",
        "run-mobilenetv2.onnx",
    ]


def test_every_known_network_has_a_name_and_downloads_bear_it(shown: content.PageRun) -> None:
    for id in BASELINES:
        assert names.known_name(id) != id
    model = shown.content.models[1]
    assert shown.content.name(model.id) == "Found 2"
    assert shown.stem(model.id) == "my-run-found-2"
    assert shown.content.name("mobilenet_v2") == "MobileNetV2"
    trial = shown.content.trials[4]
    assert shown.content.name(trial.id) == "Design 5"


def test_facts_tell_of_each_class_of_mistakes_and_of_the_course(tmp_path: Path, seed: int) -> None:
    path = page_run.make(tmp_path / "run", seed)
    with Run.open(path, write=True) as run:
        classes = ("cat", "dog & co")
        run.set_setting("data", DataInfo("pets", test=20, class_names=classes))
        model = replace(
            run.models()[0],
            confusion=((7, 3), (1, 9)),
            mistakes=(Mistake(3, 0, 1, 0.987), Mistake(5, 1, 0, 0.6)),
            curve=(Epoch(1, 2.0, 0.1, 1.0), Epoch(2, 0.5, 0.1, 1.0)),
        )
        run.put(model)
    strip = path / "models" / model.id / "mistakes.png"
    shown = content.PageRun.open(path)
    told = facts.html(shown, model.id)
    text = _text(told)
    assert text.index("cat 70.0 % 7 of 10") < text.index("dog & co 90.0 % 9 of 10")
    assert "said dog & co , is cat 99 % sure" in text
    assert "from 2 to 0.5" in told
    assert "mistakes.png" not in told
    strip.write_bytes(b"picture")
    assert f"run/files/{model.id}/mistakes.png" in facts.html(shown, model.id)
    shown.close()


def test_a_pair_tells_the_differences(shown: content.PageRun) -> None:
    first, second = (one.id for one in shown.content.models)
    text = _text(facts.pair(shown, first, "mobilenet_v2"))
    assert "right 95.00 % 90.00 % -5.00 points" in text
    more = 100 * (50_000 / (shown.content.models[0].params or 1) - 1)
    assert f"50k {more:+.0f} %" in text
    assert facts.pair(shown, first, second).count("<svg") == 4
    tried = shown.content.trials[5].id
    assert "cannot be compared" in facts.pair(shown, first, tried)
    assert "is not in this run" in facts.pair(shown, first, "none")


def test_a_saved_drawing_is_whole_without_the_page() -> None:
    drawing = cell_svg.standalone(page_run.chain(6))
    assert "var(" not in drawing
    assert len(xml.dom.minidom.parseString(drawing).getElementsByTagName("g")) == 8
