"""The page as a visitor meets it: a real browser that clicks, uploads and reads.

Needs Playwright for Python and the system's Chromium (`apt install chromium`); without them the
tests are skipped.
"""

import csv
import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio
import numpy as np
import onnxruntime
import pytest

import page_run
import visitor
from gemkit.app.page import browser, content, page, try_it
from gemkit.cell import Cell
from gemkit.export.kit import fit_measurements
from gemkit.records import Model
from gemkit.store import Run

pytestmark = visitor.needs_chromium


@pytest.fixture(scope="module")
def visit(chromium: Any, address: str) -> Iterator[Any]:
    """One visitor for all tests that leave the page usable."""
    tab = visitor.open_page(chromium, address)
    yield tab
    tab.context.close()


@pytest.fixture
def tab(visit: Any) -> Iterator[Any]:
    yield visit
    assert visit.faults == []


def _networks(folder: Path) -> list[Model]:
    with Run.open(folder) as run:
        return run.models()


def test_the_result_selects_by_click_everywhere_and_filters(tab: Any, folder: Path) -> None:
    visitor.go(tab, "Result")
    small, large = _networks(folder)
    visitor.choose(tab, large.id)
    assert tab.locator("#facts .gk-down .gk-node").count() == 32
    tab.locator("#points canvas").scroll_into_view_if_needed()
    place = tab.evaluate("(id) => gemkit.result.scatter.place(id)", small.id)
    box = tab.locator("#points canvas").bounding_box()
    tab.mouse.click(box["x"] + place["x"], box["y"] + place["y"])
    visitor.wait_for_facts(tab, small.id)
    assert tab.url.endswith("#id=" + small.id)
    chosen = tab.locator(".gk-list tr.gk-chosen")
    assert {small.id} == {row.get_attribute("data-id") for row in chosen.all()}
    rows = tab.locator(".gk-list tr[data-id]")

    def first_macs() -> str:
        return str(rows.first.locator("td").nth(2).inner_text())

    tab.get_by_role("button", name="MACs").click()
    least = first_macs()
    tab.get_by_role("button", name="MACs").click()
    assert first_macs() != least
    # What is sorted by validation pictures is never mixed with what is by test pictures.
    kinds = tab.locator(".gk-list tbody tr").evaluate_all(
        "(all) => all.map((one) => one.dataset.id ? one.firstChild.textContent : '')"
    )
    assert kinds[0] == kinds[4] == ""
    assert sorted(kinds[1:4]) == ["Found 1", "Found 2", "MobileNetV2"]
    tab.locator(".gk-options > summary").click()
    slider = tab.locator(".gk-sliders input").first
    slider.fill("30")
    told = tab.locator(".gk-count").inner_text()
    assert int(told.split()[0]) < 13
    slider.fill("100")
    tab.get_by_label("against").select_option("params")
    tab.get_by_label("logarithmic scale").check()
    # Twelve designs, of which two became networks, and a known network: each stands once.
    plot = tab.locator("#points .gk-plot")
    assert plot.get_attribute("data-points") == "13"
    ids = [row.get_attribute("data-id") for row in rows.all()]
    assert len(ids) == len(set(ids)) == 13
    # A design that is better than all others in both is no front.
    has_front = tab.evaluate("() => gemkit.result.scatter.fronts[0].length > 0")
    legend = tab.locator(".gk-legend").first.inner_text()
    assert ("Pareto front: of the designs tried" in legend) == has_front
    tab.get_by_label("show").select_option("tried")
    assert plot.get_attribute("data-points") == "12"
    assert rows.count() == 12
    legend = tab.locator(".gk-legend").first.inner_text()
    assert "trained in full" not in legend  # what is not drawn is not explained
    tab.get_by_label("show").select_option("all")
    tab.locator(".gk-options > summary").click()


def test_the_table_is_searched_and_saved(tab: Any, folder: Path) -> None:
    visitor.go(tab, "Result")
    tab.locator(".gk-columns > summary").click()
    tab.locator(".gk-columns").get_by_label("memory").check()
    tab.get_by_label("search a name").fill("found")
    rows = tab.locator(".gk-list tr[data-id]")
    assert rows.count() == 2
    assert tab.locator(".gk-list thead th").count() == 6
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Save as CSV").click()
    saved = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    found = {one.id: one for one in _networks(folder)}
    assert {one["id"] for one in saved} == set(found)
    for one in saved:
        model = found[one["id"]]
        assert (one["kind"], one["accuracy_on"]) == ("found", "test")
        assert (float(one["accuracy"]), int(one["macs"])) == (model.accuracy, model.macs)
        assert int(one["peak_memory_bytes"]) == model.peak_memory_bytes
    tab.get_by_label("search a name").fill("")
    tab.locator(".gk-columns").get_by_label("memory").uncheck()
    tab.locator(".gk-columns > summary").click()


def test_low_designs_are_counted_and_shown_on_request(chromium: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trials = page_run.trials_of([page_run.chain(nodes) for nodes in range(2, 14)], rng)
    shares = [0.1, 0.2, *(0.9 + 0.01 * n for n in range(10))]
    config = {"data": "digits", "budget": {"macs": 10**9}, "seed": 0}
    with Run.create(tmp_path / "low", config) as run:
        run.set_setting("skeleton", page_run.SKELETON.to_json())
        pairs = zip(trials, shares, strict=True)
        run.add_trials([dataclasses.replace(one, accuracy=share) for one, share in pairs])
    server = page.launch(tmp_path / "low", "127.0.0.1", 0, read_only=True)
    try:
        tab = visitor.open_page(chromium, server.address)
        assert "99.0 % right" in tab.locator(".gk-offer h2").inner_text()
        tab.wait_for_selector("#points .gk-plot[data-low='2']")
        assert "2 below" in tab.locator(".gk-missing").inner_text()
        tab.locator(".gk-options > summary").click()
        tab.get_by_label("the lowest shares too").check()
        tab.wait_for_selector("#points .gk-plot[data-low='0']")
        assert tab.locator(".gk-missing").inner_text() == ""
        assert tab.faults == []
        tab.context.close()
    finally:
        server.close()


def test_two_networks_stand_side_by_side(tab: Any, folder: Path) -> None:
    visitor.go(tab, "Result")
    small, large = _networks(folder)
    visitor.choose(tab, small.id)
    tab.locator("#facts [data-compare]").click()
    dialog = tab.locator("dialog")
    dialog.locator("[data-likeness]").wait_for()
    selects = dialog.locator("select")
    assert selects.nth(0).input_value() == small.id
    selects.nth(1).select_option("mobilenet_v2")
    dialog.locator('td:has-text("-5.00 points")').wait_for()
    dialog.locator("select").nth(1).select_option(large.id)
    dialog.locator("[data-likeness]").wait_for()
    assert "Weisfeiler-Lehman similarity" in dialog.locator("[data-likeness]").inner_text()
    assert dialog.locator(".gk-cell").count() == 2
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    tab.locator("#facts [data-enlarge]").click()
    tab.locator("dialog .gk-across .gk-node").first.wait_for()
    tab.keyboard.press("Escape")


def test_a_node_tells_what_it_is_and_what_it_costs(tab: Any, folder: Path) -> None:
    visitor.go(tab, "Result")
    visitor.choose(tab, _networks(folder)[1].id)
    tab.locator('#facts .gk-down .gk-node[data-node="5"]').hover()
    hint = tab.locator(".gk-tip-box.gk-fixed")
    text = hint.inner_text()
    assert "1×1 convolution" in text
    assert "the cell input, 4" in text
    assert "8 × 8 × 8" in text
    assert "MACs" in text
    tab.mouse.move(5, 5)
    assert not hint.is_visible()


def _overlaps(tab: Any, kind: str) -> int:
    """How many pairs of labels of a drawing meet on the screen."""
    script = """(kind) => {
        const boxes = [...document.querySelectorAll(`${kind} .gk-node`)]
            .map((node) => node.getBoundingClientRect());
        let met = 0;
        boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
            met += a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        }));
        return boxes.length ? met : -1; }"""
    return int(tab.evaluate(script, kind))


def test_a_click_downloads_the_offered_network(tab: Any, folder: Path) -> None:
    visitor.go(tab, "Result")
    small = _networks(folder)[0]
    with tab.expect_download() as waiting:
        tab.locator(".gk-offer a.gk-primary").click()
    assert waiting.value.suggested_filename == "shown-found-1.onnx"
    content = Path(waiting.value.path()).read_bytes()
    onnxruntime.InferenceSession(content)
    visitor.choose(tab, small.id)
    fold = tab.locator('#facts .gk-fold[data-name="files"]')
    fold.locator("summary").click()
    code = fold.locator("code").first.get_attribute("title")
    assert code == f"SHA-256: {hashlib.sha256(content).hexdigest()}"
    fold.locator("summary").click()
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name="Drawing (SVG)").click()
    assert waiting.value.suggested_filename == "shown-found-1.cell.svg"


def _program(tab: Any, language: str) -> str:
    """A program as the page shows it after a click on Code."""
    visitor.go(tab, "Result")
    tab.locator(".gk-offer button", has_text="Code").click()
    fold = tab.locator(f'#facts [data-language="{language}"]')
    fold.wait_for()
    if fold.get_attribute("open") is None:
        fold.locator("summary").click()
    return str(fold.locator("pre").inner_text())


def _answers(folder: Path, file: Path, picture: Path) -> str:
    """What onnxruntime makes of a picture."""
    shown = content.PageRun.open(folder)
    probabilities, _ = try_it.classify(shown, file.parent.name, str(picture))
    shown.close()
    return max(probabilities, key=lambda name: probabilities[name])


def test_the_programs_shown_run_on_the_downloaded_file(
    tab: Any, folder: Path, tmp_path: Path, chromium: Any, address: str
) -> None:
    with tab.expect_download() as waiting:
        visitor.go(tab, "Result")
        tab.locator(".gk-offer a.gk-primary").click()
    network = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(network)
    picture = next((folder / "examples").glob("*.png"))
    shutil.copy(picture, tmp_path / "image.png")
    model = folder / "models" / _networks(folder)[0].id / "model.onnx"
    wanted = _answers(folder, model, picture)
    done = subprocess.run(
        [sys.executable, "-c", _program(tab, "Python")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == (wanted, "")
    assert "const size_t SIZE = 64;" in _program(tab, "C++")
    if not browser.has_runtime():
        return
    program = _program(tab, "JavaScript")
    context = chromium.new_context()
    other = context.new_page()
    said: list[str] = []
    other.on("console", lambda message: said.append(message.text))
    other.on("pageerror", lambda error: said.append(str(error)))
    imports = {"imports": {"onnxruntime-web": "/onnxruntime/ort.wasm.min.mjs"}}
    body = (
        f'<script type="importmap">{json.dumps(imports)}</script>'
        f'<script type="module">{program}</script>'
    )
    other.route("**/program/", lambda route: route.fulfill(body=body, content_type="text/html"))
    other.route("**/program/*.png", lambda route: route.fulfill(path=picture))
    other.route("**/program/*.onnx", lambda route: route.fulfill(path=network))
    other.goto(f"{address}/program/")
    end = time.monotonic() + 60
    while not said and time.monotonic() < end:
        other.wait_for_timeout(50)
    assert said == [wanted]
    context.close()


def test_a_drawn_digit_is_answered(tab: Any) -> None:
    visitor.go(tab, "Try it")
    pad = tab.locator("#pad canvas")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for _ in range(2):  # the second drawing takes the place of the first
        tab.mouse.move(box["x"] + 110, box["y"] + 30)
        tab.mouse.down()
        tab.mouse.move(box["x"] + 110, box["y"] + 190, steps=5)
        tab.mouse.up()
        tab.wait_for_selector("#left-note strong")
        assert tab.locator("#left-answer h2").is_visible()
        tab.get_by_role("button", name="Clear").first.click()
    tab.locator("#image button[aria-label='Remove Image']").click()
    assert "grey pictures of 8 x 8 pixels" in tab.locator(".gk-hint").inner_text()


def test_try_it_classifies_uploads_and_examples(tab: Any, folder: Path, tmp_path: Path) -> None:
    visitor.go(tab, "Try it")
    image = next((folder / "examples").glob("*.png"))
    tab.locator("#image input[type=file]").set_input_files(image)
    tab.wait_for_selector("#image img")
    tab.evaluate("""() => {
        window.told = new Set();
        const note = () => document.querySelectorAll('[aria-live], [role=status]')
            .forEach((one) => told.add(one.textContent.trim()));
        new MutationObserver(note).observe(document.body,
            {subtree: true, childList: true, characterData: true}); }""")
    tab.locator("#classify").click()
    tab.wait_for_selector("#left-note strong")
    assert "ms" in tab.locator("#left-note").inner_text()
    assert "ms" in tab.locator("#right-note").inner_text()
    with Run.open(folder) as run:
        first = run.models()[0].id
    shown = content.PageRun.open(folder)
    assert tab.locator("#left input").input_value().startswith("Found 1 ")
    probabilities, _ = try_it.classify(shown, first, str(image))
    shown.close()
    best = max(probabilities, key=lambda name: probabilities[name])
    assert tab.locator("#left-answer h2").inner_text().strip() == best
    # Later versions of Gradio tell screen readers when it is done, 6.31 by the name of a text that
    # it has not.
    if tuple(map(int, gradio.__version__.split(".")[:2])) >= (6, 31):
        tab.wait_for_function("() => told.has('done') || told.has('common.complete')")
    assert not tab.evaluate("told.has('common.complete')")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    tab.locator("#image button[aria-label='Remove Image']").click()
    tab.locator("#image input[type=file]").set_input_files(text)
    tab.wait_for_timeout(500)
    tab.locator("#classify").click()
    tab.wait_for_selector('#left-note:has-text("no picture that can be read")')


def test_a_picture_of_the_camera_is_classified(
    start_chromium: Callable[..., Any], address: str
) -> None:
    opened = start_chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    tab = visitor.open_page(opened, address, permissions=["camera"])
    visitor.go(tab, "Try it")
    tab.get_by_role("button", name="Capture from camera").click()
    tab.locator("#image button", has_text="Webcam").click()
    # Before the camera's first picture there is nothing to capture.
    tab.wait_for_function("document.querySelector('#image video')?.videoWidth > 0")
    tab.wait_for_timeout(500)
    tab.get_by_role("button", name="capture photo").click()
    tab.wait_for_selector("#image img[src*='/file=']")
    tab.locator("#classify").click()
    tab.wait_for_selector("#left-note strong")
    assert "ms" in tab.locator("#left-note").inner_text()
    assert tab.faults == []
    opened.close()


def test_latency_follows_its_conditions(tab: Any) -> None:
    visitor.go(tab, "Speed")
    table = tab.locator("#latency-table tbody tr")
    assert table.count() == 3
    assert "a processor, 2 cores, onnxruntime 1.99" in tab.locator("#latency-table").inner_text()
    tab.locator("#latency-threads input").click()
    tab.get_by_role("option", name="2", exact=True).click()
    tab.wait_for_function("() => document.querySelectorAll('#latency-table tbody tr').length === 2")


def test_the_networks_are_measured_again(chromium: Any, folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "again"))
    server = page.launch(path, "127.0.0.1", 0)
    try:
        tab = visitor.open_page(chromium, server.address)
        visitor.go(tab, "Speed")
        assert tab.locator("#latency-table tbody tr").count() == 3
        tab.locator("#measure-again").click()
        tab.wait_for_selector(
            '#latency-outcome:has-text("just now on this computer")', timeout=400_000
        )
        with Run.open(path) as run:
            latest = run.baselines()[0].measurements[0]
        assert latest.machine["processor"] != "a processor"
        assert (latest.date or "none")[:10] in tab.locator("#latency-table").inner_text()
        assert tab.faults == []
        tab.context.close()
    finally:
        server.close()


def test_the_map_compares_two_cells(tab: Any, folder: Path) -> None:
    visitor.go(tab, "How it was found")
    tab.wait_for_selector("#map .gk-plot[data-points='12']")
    small, large = _networks(folder)
    canvas = tab.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    tab.wait_for_timeout(200)

    def at(id: str) -> tuple[float, float]:
        place = tab.evaluate("(id) => gemkit.map.scatter.place(id)", id)
        box = canvas.bounding_box()
        return box["x"] + place["x"], box["y"] + place["y"]

    tab.mouse.click(*at(small.id))
    tab.mouse.move(*at(large.id))
    tab.wait_for_selector('#map .gk-pair:has-text("Weisfeiler-Lehman similarity")')
    visitor.wait_for_facts(tab, small.id)


def test_the_course_and_the_lines_show_every_design(tab: Any) -> None:
    visitor.go(tab, "How it was found")
    tab.wait_for_selector("#progress .gk-plot[data-points='12']")
    plot = tab.locator("#parallel .gk-plot")
    tab.wait_for_selector("#parallel .gk-plot[data-passing='12']")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    axis = box["x"] + box["width"] - 44  # the last: the share right
    shares = tab.evaluate(
        "() => { const c = gemkit.shared.table.columns;"
        " return c.accuracy.filter((_, i) => c.kind[i] === 0); }"
    )
    middle = (max(shares) + min(shares)) / 2
    tab.mouse.move(axis, box["y"] + 38 + (box["height"] - 72) / 2)
    tab.mouse.down()
    tab.mouse.move(axis, box["y"] + 10, steps=4)
    tab.mouse.up()
    passing = int(plot.get_attribute("data-passing"))
    assert abs(passing - sum(share >= middle for share in shares)) <= 1
    tab.mouse.click(axis, box["y"] + 100)
    tab.wait_for_selector("#parallel .gk-plot[data-passing='12']")


@pytest.mark.skipif(
    not browser.has_runtime(),
    reason="onnxruntime-web is not in the cache: gemkit app RUN --fetch-runtime",
)
def test_the_browser_answers_as_the_server_and_measures(
    tab: Any, folder: Path, tmp_path: Path
) -> None:
    visitor.go(tab, "Speed")
    adapter = tab.evaluate("async () => !!(await navigator.gpu?.requestAdapter())")
    assert tab.locator("#browser select option").count() == 1 + adapter
    assert tab.locator("#gk-no-webgpu").is_visible() != adapter
    tab.locator("#gk-measure").click()
    tab.wait_for_selector("#browser .gk-browser[data-state=done]")
    rows = tab.locator("#browser table tbody tr")
    assert rows.count() == 3
    for row in rows.all():
        assert float(row.get_attribute("data-difference")) <= 1e-4
        assert float(row.locator("td").nth(1).inner_text().split()[0]) > 0
    tab.locator(".gk-browser input[type=number]").fill("10")
    tab.locator("#gk-kit").click()
    tab.wait_for_selector("#gk-save")
    with tab.expect_download() as waiting:
        tab.locator("#gk-save").click()
    saved = tmp_path / "measurements.json"
    saved.write_bytes(Path(waiting.value.path()).read_bytes())
    assert json.loads(saved.read_text())["device"]["versions"] == {
        "onnxruntime-web": browser.VERSION
    }
    model = fit_measurements(saved)
    assert len(model.measured) == 10


def test_a_search_runs_live_is_cancelled_and_resumed(
    tab: Any, folder: Path, chromium: Any, address: str
) -> None:
    visitor.go(tab, "Search")
    other = visitor.open_page(chromium, address, "#tab=search")
    many = 30  # on a fast machine some end before the button is found
    for name, value in (("trials", many), ("nodes", 12), ("macs", 1500), ("epochs", 1)):
        tab.locator(f"#live-{name} input").fill(str(value))
    tab.locator("#live-start").click()
    # A process starts with seconds of imports: on a busy machine with minutes.
    tab.wait_for_function(
        "document.querySelector('#live-state')?.dataset.done > 0", timeout=400_000
    )
    # Another visitor sees it, and cannot end it.
    other.wait_for_selector('#live-state:has-text("another visitor started it")')
    assert other.locator("#live-cancel").is_disabled()
    assert other.locator("#live-start").is_disabled()
    tab.reload()  # whoever started it stays who started it
    visitor.go(tab, "Search")
    tab.wait_for_selector("#live-cancel:not([disabled])")
    tab.locator("#live-cancel").click()
    # That it is ending is told at once, however long it takes.
    tab.wait_for_selector("#live-state:is([data-state=cancelling], [data-state=cancelled])")
    tab.wait_for_selector("#live-state[data-state=cancelled]")
    with Run.open(folder.with_name("shown-live")) as run:
        before = {trial.id: trial.accuracy for trial in run.trials() if trial.state == "done"}
    assert 1 <= len(before) < many
    tab.locator("#live-resume").click()
    tab.wait_for_selector("#live-state[data-state=finished]", timeout=400_000)
    with Run.open(folder.with_name("shown-live")) as run:
        after = {trial.id: trial.accuracy for trial in run.trials()}
    assert len(after) == many
    assert before.items() <= after.items()
    assert tab.locator("#live-view .gk-svgplot circle").count() >= 8
    for one in (tab, other):
        one.locator(".gk-best summary").first.click()
        one.locator(".gk-best .gk-across .gk-node").first.wait_for()
    with tab.expect_download() as waiting:
        tab.locator(".gk-best a[download]").first.click()
    best = max(after, key=lambda id: after[id] or 0.0)
    assert Cell.from_json(json.loads(Path(waiting.value.path()).read_bytes())).id == best
    assert other.faults == []
    other.context.close()


def test_a_growing_run_is_followed(chromium: Any, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    trials = page_run.trials_of([page_run.chain(nodes) for nodes in range(2, 8)], rng)
    config = {"data": "digits", "budget": {"macs": 10**9}, "seed": 0}
    with Run.create(tmp_path / "grows", config) as run:
        run.set_setting("skeleton", page_run.SKELETON.to_json())
        server = page.launch(tmp_path / "grows", "127.0.0.1", 0, read_only=True)
        try:
            tab = visitor.open_page(chromium, server.address)
            assert tab.locator("#points .gk-plot").get_attribute("data-points") == "0"
            run.add_trials(trials)
            tab.wait_for_selector("#points .gk-plot[data-points='6']")
            assert tab.faults == []
            tab.context.close()
        finally:
            server.close()


def test_on_a_phone_in_the_dark_by_keyboard(chromium: Any, address: str, folder: Path) -> None:
    size = {"width": 390, "height": 844}
    tab = visitor.open_page(chromium, address, viewport=size, color_scheme="dark", has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    large = _networks(folder)[1]
    row = tab.locator(f'.gk-list tr[data-id="{large.id}"]').first
    row.focus()
    tab.keyboard.press("Enter")
    visitor.wait_for_facts(tab, large.id)
    # What is known of it rises from below.
    assert tab.locator("#facts .gk-down").is_visible()
    assert not tab.locator("#facts .gk-across").is_visible()
    assert _overlaps(tab, "#facts .gk-down") == 0
    tab.keyboard.press("Escape")
    tab.locator("#side").wait_for(state="hidden")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("#points canvas").focus()
    before = tab.url
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_function("(before) => location.href !== before", arg=before)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.evaluate("(id) => gemkit.select(id)", large.id)
    visitor.wait_for_facts(tab, large.id)
    tab.locator("#facts [data-enlarge]").click()
    tab.locator("dialog .gk-across").wait_for()
    assert _overlaps(tab, "dialog .gk-across") == 0
    assert tab.faults == []
    tab.context.close()


def test_read_only_offers_nothing_that_costs(chromium: Any, folder: Path) -> None:
    login = {"username": "me", "password": "open sesame"}
    server = page.launch(folder, "127.0.0.1", 0, login=("me", "open sesame"), read_only=True)
    try:
        tab = visitor.open_page(chromium, server.address, http_credentials=login)
        assert tab.get_by_role("tab", name="Search").count() == 0
        visitor.go(tab, "Speed")
        tab.wait_for_selector("#latency-table table")
        assert tab.locator("#measure-again").count() == 0
        config = tab.evaluate("() => window.gradio_config")
        names = {one.get("api_name") for one in config["dependencies"]}
        assert not names & {"started", "resumed", "cancelled", "again"}
        script = """async (data) => {
            const answer = await fetch('gradio_api/run/' + data.name, {method: 'POST',
                headers: {'content-type': 'application/json'}, body: JSON.stringify(data.body)});
            return [answer.status, await answer.text()]; }"""
        for name in ("started", "again", "predict", "try_it"):
            body = {"data": [], "session_hash": "x"}
            status, text = tab.evaluate(script, {"name": name, "body": body})
            assert status >= 400, text
        stolen = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        number = next(
            one["id"] for one in config["dependencies"] if one.get("api_name") == "try_it"
        )
        body = {"data": [stolen, None, None], "fn_index": number, "session_hash": "x"}
        status, text = tab.evaluate(
            script.replace("'gradio_api/run/' + data.name", "'gradio_api/queue/join'"),
            {"name": "", "body": body},
        )
        assert "root:" not in text
        started = time.monotonic()
        assert tab.faults == []
        assert time.monotonic() - started < 60
        tab.context.close()
    finally:
        server.close()
