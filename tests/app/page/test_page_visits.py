"""What visitors met that was wrong: each acts as they did, and reads what they read."""

import contextlib
import dataclasses
import http.client
import http.server
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import page_run
import visitor
from gemkit.app.page import page, try_it
from gemkit.app.page.content import PageRun
from gemkit.store import Run

pytestmark = visitor.needs_chromium


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page; nothing may have gone wrong in it."""
    opened = []

    def go(way: str = "", **options: Any) -> Any:
        opened.append(visitor.open_page(chromium, address, way, **options))
        return opened[-1]

    yield go
    for tab in opened:
        assert tab.faults == []
        tab.context.close()


def _ids(folder: Path) -> tuple[str, str]:
    with Run.open(folder) as run:
        first, second = (one.id for one in run.models())
    return first, second


# ---- Try it


def test_an_example_is_answered_by_one_click_and_uploads_are_still_checked(
    visit: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    tab = visit()
    visitor.go(tab, "Try it")
    tab.locator("#examples .gallery-item, #examples button").first.click()
    tab.wait_for_selector("#left-note strong")
    text, empty, large, deep = (
        tmp_path / f"{name}.png" for name in ("text", "empty", "large", "deep")
    )
    text.write_text("no picture")
    empty.write_bytes(b"")
    Image.new("1", (9000, 9000)).save(large)
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(deep)

    def upload(path: Path) -> None:
        tab.locator("#image button[aria-label='Remove Image']").click()
        tab.wait_for_function("() => !document.querySelector('#left-note').innerText.trim()")
        tab.locator("#image input[type=file]").set_input_files(path)

    for path, told in (
        (text, "no picture that can be read"),
        (empty, "it is empty"),
        (large, "67 million pixels"),
    ):
        upload(path)
        tab.wait_for_selector(f'#left-note:has-text("{told}")')
        assert not tab.locator("#left-answer h2").is_visible()
    upload(deep)
    tab.wait_for_selector("#left-note strong")
    shown = PageRun.open(folder)
    probabilities, _ = try_it.classify(shown, _ids(folder)[0], str(deep))
    shown.close()
    best = max(probabilities, key=lambda name: probabilities[name])
    assert tab.locator("#left-answer h2").inner_text().strip() == best


def test_another_network_is_asked_at_once(visit: Callable[..., Any], folder: Path) -> None:
    tab = visit()
    visitor.go(tab, "Try it")
    image = next((folder / "examples").glob("*.png"))
    tab.locator("#image input[type=file]").set_input_files(image)
    tab.wait_for_selector("#left-note strong")
    shown = PageRun.open(folder)
    answers = {
        shown.content.name(id): max(found, key=lambda one: found[one])
        for id in (*_ids(folder), "mobilenet_v2")
        for found, _ in [try_it.classify(shown, id, str(image))]
    }
    shown.close()
    for name, answer in answers.items():
        tab.locator("#left input").click()
        tab.get_by_role("option", name=name).click()
        tab.wait_for_function(
            "(wanted) => document.querySelector('#left input').value.startsWith(wanted)", arg=name
        )
        tab.wait_for_function(
            "(answer) => document.querySelector('#left-answer h2')?.innerText.trim() === answer",
            arg=answer,
        )
    tab.locator("#image button[aria-label='Remove Image']").click()
    tab.wait_for_function("() => !document.querySelector('#left-note').innerText.trim()")


# ---- scripts that come late, a server that starts again


def test_scripts_that_arrive_late_still_fill_the_page(chromium: Any, address: str) -> None:
    context = chromium.new_context()
    context.set_default_timeout(120_000)
    tab = context.new_page()

    def late(route: Any) -> None:
        time.sleep(3)
        route.continue_()

    tab.route("**/page/*.js", late)
    # Scripts in the head hold the page up unless the browser is told that they need not.
    tab.route(
        address + "/",
        lambda route: route.fulfill(
            response=(answer := route.fetch()),
            body=answer.text().replace('<script src="page/', '<script async src="page/'),
        ),
    )
    tab.goto(address)
    tab.wait_for_selector("#points .gk-plot[data-points]")
    tab.wait_for_selector("#facts h3", state="attached")
    visitor.go(tab, "How it was found")
    tab.wait_for_selector("#map .gk-plot[data-points]")
    visitor.go(tab, "Speed")
    tab.wait_for_function("() => !document.querySelector('#browser [data-waiting]')")
    context.close()


def test_a_page_outlives_its_server(chromium: Any, folder: Path) -> None:
    server = page.launch(folder, "127.0.0.1", 0, read_only=True)
    port = int(server.address.rpartition(":")[2])
    tab = visitor.open_page(chromium, server.address)
    server.close()
    first, second = _ids(folder)
    tab.locator(f'.gk-list tr[data-id="{second}"]').first.click()
    server = page.launch(folder, "127.0.0.1", port, read_only=True)
    try:
        visitor.wait_for_facts(tab, second)
        visitor.choose(tab, first)
        tab.reload()
        visitor.wait_for_facts(tab, first)
    finally:
        tab.context.close()
        server.close()


class _Stripping(http.server.BaseHTTPRequestHandler):
    """A proxy that takes /gemkit away from every path, and passes the rest on."""

    upstream = 0

    def _pass_on(self) -> None:
        if not self.path.startswith("/gemkit/"):
            self.send_error(404)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
        path = self.path.removeprefix("/gemkit")
        connection.request(self.command, path, body, dict(self.headers))
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            while part := answer.read1(65_536):
                self.wfile.write(part)
                self.wfile.flush()
        connection.close()

    do_GET = do_POST = do_HEAD = _pass_on

    def log_message(self, *_: Any) -> None:
        pass


def test_the_page_works_behind_a_proxy_that_strips_a_prefix(chromium: Any, folder: Path) -> None:
    server = page.launch(folder, "127.0.0.1", 0, read_only=True, root_path="/gemkit")
    handler = type("Handler", (_Stripping,), {"upstream": int(server.address.rpartition(":")[2])})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        # The visitor's browser asks for nothing outside of the prefix.
        address = f"http://127.0.0.1:{proxy.server_port}/gemkit/"
        tab = visitor.open_page(chromium, address)
        second = _ids(folder)[1]
        visitor.choose(tab, second)
        visitor.go(tab, "Try it")
        tab.locator("#examples .gallery-item, #examples button").first.click()
        tab.wait_for_selector("#left-note strong")
        assert tab.faults == []
        tab.context.close()
    finally:
        proxy.shutdown()
        server.close()


# ---- a run that changes


def test_what_is_exported_or_measured_later_appears(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "grows"))
    second = _ids(path)[1]
    onnx = path / "models" / second / "model.onnx"
    kept = onnx.read_bytes()
    with Run.open(path, write=True) as run:
        onnx.unlink()
        network = run.models()[1]
        run.put(dataclasses.replace(network, onnx=None, measurements=(), latency_ms=None))
        server = page.launch(path, "127.0.0.1", 0, read_only=True)
        try:
            tab = visitor.open_page(chromium, server.address, f"#id={second}")
            tab.wait_for_selector('#facts:has-text("No ONNX file yet")')
            visitor.go(tab, "Speed")
            tab.wait_for_selector("#latency-table tbody tr")
            assert "Found 2" not in tab.locator("#latency-table").inner_text()
            visitor.go(tab, "Result")
            onnx.write_bytes(kept)
            told = f"models/{second}/model.onnx"
            measured = page_run.measurement(told, 1, 1, 7.77)
            run.put(
                dataclasses.replace(
                    network, onnx=told, latency_ms=measured.latency_ms, measurements=(measured,)
                )
            )
            tab.wait_for_selector('#facts:has-text("7.77 ms")')
            row = tab.locator(f'.gk-list tr[data-id="{second}"]')
            assert "7.77 ms" in row.inner_text()
            visitor.go(tab, "Speed")
            tab.wait_for_selector(f'#latency-table tr[data-id="{second}"]')
            visitor.go(tab, "Try it")
            tab.locator("#right input").click()
            assert tab.get_by_role("option", name="Found 2").count() == 1
            tab.keyboard.press("Escape")
            fresh = visitor.open_page(chromium, server.address, f"#id={second}&tab=speed")
            fresh.wait_for_selector(f'#latency-table tr[data-id="{second}"]')
            assert tab.faults == fresh.faults == []
            fresh.context.close()
            tab.context.close()
        finally:
            server.close()


# ---- the address


def test_a_link_leads_to_what_it_was_copied_from(visit: Callable[..., Any], folder: Path) -> None:
    first, second = _ids(folder)
    tab = visit()
    visitor.choose(tab, second)
    tab.get_by_label("against").select_option("params")
    tab.locator(".gk-options > summary").click()
    tab.locator(".gk-sliders input").first.fill("30")
    told = tab.locator(".gk-listing .gk-count").inner_text()
    other = visit("#" + tab.url.partition("#")[2])
    visitor.wait_for_facts(other, second)
    assert other.get_by_label("against").input_value() == "params"
    assert other.locator(".gk-listing .gk-count").inner_text() == told
    visitor.go(tab, "Try it")
    assert "tab=try" in tab.url
    third = visit("#" + tab.url.partition("#")[2])
    third.wait_for_selector("#image")
    assert third.locator("#image").is_visible()
    tab.go_back()
    tab.wait_for_selector("#points canvas")
    tab.go_back()
    visitor.wait_for_facts(tab, first)
    assert tab.url.startswith("http://127.0.0.1")
    tab.evaluate("(id) => { location.hash = '#' + id; }", second)
    visitor.wait_for_facts(tab, second)


@pytest.mark.parametrize("way", ["#%E0%A4%A", "#id=%E0%A4%A&max_macs=x&x=y&tab=z", "#id=none"])
def test_an_address_that_means_nothing_stops_nothing(
    visit: Callable[..., Any], folder: Path, way: str
) -> None:
    tab = visit(way)
    visitor.wait_for_facts(tab, _ids(folder)[0])
    assert tab.locator(".gk-plot").first.get_attribute("data-points") == "13"


# ---- limits


def test_a_limit_says_of_how_many_nothing_is_known(visit: Callable[..., Any]) -> None:
    tab = visit()
    every = tab.locator(".gk-list tr[data-id]").count()
    tab.locator(".gk-options > summary").click()
    tab.get_by_label("at most, latency").fill("99")
    told = tab.locator(".gk-listing .gk-count").inner_text()
    assert "no latency is known" in told
    unknown = tab.locator(".gk-list tr.gk-unknown").count()
    assert unknown == 10  # candidates are not measured
    assert f"{unknown} more" in told
    assert tab.locator(".gk-list tr[data-id]").count() >= every - 1
    tab.get_by_label("at most, latency").fill("100")
    tab.get_by_label("against").select_option("latency")
    assert "10 without a known latency" in tab.locator(".gk-missing").inner_text()


# ---- fingers and keys


def test_a_tap_tells_what_was_tapped_and_leads_to_the_facts(
    visit: Callable[..., Any], folder: Path
) -> None:
    tab = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    second = _ids(folder)[1]
    tab.locator("#points canvas").scroll_into_view_if_needed()
    place = tab.evaluate("(id) => gemkit.result.scatter.place(id)", second)
    box = tab.locator("#points canvas").bounding_box()
    tab.touchscreen.tap(box["x"] + place["x"], box["y"] + place["y"])
    tip = tab.locator("#points .gk-tip-box")
    tip.wait_for(state="visible")
    assert "Found 2" in tip.inner_text()
    visitor.wait_for_facts(tab, second)
    tab.wait_for_function(
        "() => { const at = document.querySelector('#facts h3').getBoundingClientRect();"
        " return at.top >= 0 && at.bottom < innerHeight; }"
    )
    tab.get_by_role("button", name="close").tap()
    tab.locator("#side").wait_for(state="hidden")
    tip.wait_for(state="hidden")
    tab.locator(f'.gk-list tr[data-id="{second}"]').first.tap()
    tab.locator("#side").wait_for(state="visible")
    tab.get_by_role("tab", name="Result").tap()
    tab.locator("#side").wait_for(state="hidden")
    for name in ("Try it", "Speed", "How it was found", "Search"):
        button = tab.get_by_role("tab", name=name)
        button.scroll_into_view_if_needed()
        button.tap()
        assert button.get_attribute("aria-selected") == "true"


def test_keys_change_tabs_sort_and_name_nodes(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.get_by_role("tab", name="Result").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("tab", name="Try it").get_attribute("aria-selected") == "true"
    tab.keyboard.press("Home")
    assert tab.get_by_role("tab", name="Result").get_attribute("aria-selected") == "true"
    tab.get_by_role("button", name="MACs").first.focus()
    for way in ("ascending", "descending"):
        tab.keyboard.press("Enter")
        head = tab.locator("th", has=tab.get_by_role("button", name="MACs"))
        assert head.get_attribute("aria-sort") in ("ascending", "descending"), way
        assert tab.evaluate("document.activeElement.dataset.sort") == "macs"
    tab.wait_for_selector("#facts .gk-down .gk-node")
    names = tab.locator("#facts .gk-across .gk-node").evaluate_all(
        "(all) => all.map((one) => one.getAttribute('aria-label'))"
    )
    assert names[0] == "cell input"
    assert names[1].startswith("node 1: ")
    for kind in ("across", "down"):  # what is hidden lends no arrowhead
        marker = tab.locator(f"#facts .gk-{kind} marker").get_attribute("id")
        line = tab.locator(f"#facts .gk-{kind} .gk-line[marker-end]").first
        assert line.get_attribute("marker-end") == f"url(#{marker})"
    assert tab.locator("#facts marker").count() == 2
