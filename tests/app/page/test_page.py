"""What the page shows and gives away, without a browser."""

import base64
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import page_run
from awkward_pictures import write_all
from gemkit.app import formatting
from gemkit.app.page import (
    browser,
    cell_svg,
    content,
    downloads,
    embedding_map,
    facts,
    guard,
    page,
    result,
    speed,
    try_it,
)
from gemkit.app.page.shares import measure_shares, shares
from gemkit.app.report.cell_layout import layout
from gemkit.app.steps.predict import predict
from gemkit.app.terminal.progress import console_for
from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell
from gemkit.cost import cost
from gemkit.errors import UserError
from gemkit.export import quantize
from gemkit.export.exporter import read_info
from gemkit.export.kit import read_measurements
from gemkit.export.ort_format import to_ort
from gemkit.records import Baseline, Latency, OnTarget
from gemkit.search.sampling import random_cells
from gemkit.store import Run


@pytest.fixture
def shown(folder: Path) -> Iterator[content.PageRun]:
    opened = content.PageRun.open(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = page.launch(folder, "127.0.0.1", 0, read_only=True)
    yield server.address
    server.close()


def _ask(
    address: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send exactly this path; urllib would tidy it up."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


# ---- what cells cost, taken apart


@pytest.mark.parametrize("aggregation", ["concat", "sum"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_the_parts_of_a_network_cost_what_all_of_it_costs(
    seed: int, aggregation: str, shape: tuple[int, int, int]
) -> None:
    skeleton = skeleton_for(shape, 10)
    cells = random_cells(np.random.default_rng(seed), 20, 30, aggregation).pruned()
    for index in range(len(cells)):
        architecture = Architecture((cells.cell(index),), skeleton, 4 + index)
        apart = shares(architecture)
        assert apart.total == cost(architecture).macs
        inside = sum(macs for name, macs in apart.parts if name.startswith("stage"))
        assert sum(apart.nodes) + apart.output == inside


def test_measured_time_falls_on_nodes_that_the_cell_has(shown: content.PageRun) -> None:
    (id,) = [one.id for one in shown.content.models if one.nodes == 30]
    path = shown.onnx(id)
    assert path is not None
    times = measure_shares(path, calls=10)
    assert len(times.nodes) == 31
    assert times.nodes[0] == 0
    assert sum(time > 0 for time in times.nodes[1:]) > 25  # the profile counts microseconds
    assert times.other < 0.8
    assert sum(times.nodes) + times.output + times.other == pytest.approx(1)


def test_measured_time_does_not_fall_on_the_node_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "models" / "m.onnx"
    cell = Cell(("input", "conv1x1", "conv1x1", "conv1x1"), ((0, 1), (1, 2), (1, 3)))
    page_run.export(cell, path, "m")
    times = measure_shares(path)
    assert [time > 0 for time in times.nodes] == [False, True, True, True]


# ---- drawings


def test_no_two_nodes_of_a_drawing_touch(seed: int) -> None:
    cells = random_cells(np.random.default_rng(seed), 30, 30, "concat").pruned()
    least = (2 * 15.5 + 1) / 66  # two ringed nodes, in the drawing's unit
    for index in range(len(cells)):
        places = layout(cells.cell(index)).positions
        apart = np.linalg.norm(places[:, None] - places[None, :], axis=2)
        assert apart[~np.eye(len(places), dtype=bool)].min() >= least - 0.02


def test_a_drawing_names_every_node_and_what_it_reads() -> None:
    cell = page_run.chain(30)
    text = cell_svg.cell_svg(cell, shares(Architecture((cell,), page_run.SKELETON, 8)))
    for node in range(1, 31):
        assert text.count(f'data-node="{node}"') == 2
    notes = cell_svg.node_notes(cell, None, None)
    assert ("reads", "the cell input, 4") in notes[5]


# ---- two cells compared


def test_a_cell_is_like_itself_and_unlike_a_changed_one() -> None:
    cell = page_run.chain(12)
    other = Cell(cell.operations, (*cell.edges[1:], (0, 12))).pruned()
    assert embedding_map.similarity(cell, cell) == pytest.approx(1, abs=1e-5)
    assert embedding_map.similarity(cell, other) < 1


def test_the_map_holds_every_candidate(shown: content.PageRun) -> None:
    places = embedding_map.EmbeddingMap(shown).places()
    assert places["id"] == [trial.id for trial in shown.content.trials]
    assert len(places["x"]) == len(places["y"]) == 12
    assert 0 < places["share"] <= 1


# ---- what is shown of a run


def test_the_table_holds_networks_baselines_and_candidates(shown: content.PageRun) -> None:
    columns = json.loads(gzip.decompress(shown.content.table))["columns"]
    assert columns["kind"] == [1, 1, 2, *[0] * 12]
    assert columns["latency"][2] == 0.5
    assert len({len(column) for column in columns.values()}) == 1


def test_a_run_for_another_device_shows_that_device_s_latency(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    about = json.loads((path / "config.json").read_text())
    about["config"]["target"] = "devices/my-pi.json"
    about["config"]["budget"]["latency_ms"] = 5.0
    (path / "config.json").write_text(json.dumps(about))
    with Run.open(path, write=True) as run:
        model, _ = run.models()
        there = OnTarget("my-pi", Latency(3.21, at_most=4.0), measured=False)
        run.put(replace(model, target=there))
    shown = content.PageRun.open(path)
    table = json.loads(gzip.decompress(shown.content.table))
    assert table["device"] == "my-pi"
    assert table["columns"]["latency"][:3] == [3.21, None, None]
    assert "a picture on my-pi, predicted" in facts.html(shown, model.id)
    shown.close()


def test_the_latest_measurement_tells_its_time() -> None:
    network = Baseline(id="known")
    undated = page_run.measurement("baselines/known/model.onnx", 1, 1, 0.5)
    dates = [f"2026-0{month}-02T03:04:05.678+00:00" for month in (3, 5, 4)]
    found = [speed.Entry("known", network, replace(undated, date=date)) for date in (*dates, None)]
    assert speed.when(found) == "last measured 2026-05-02 03:04 UTC"
    assert speed.when([speed.Entry("known", network, undated)]) == ""


def test_a_run_that_grows_is_read_again(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    trials = page_run.trials_of([page_run.chain(nodes) for nodes in range(2, 8)], rng)
    config = {"data": "digits", "budget": {"macs": 10**9}, "seed": 0}
    monkeypatch.setattr(content, "LOOK_EVERY", 0.0)
    with Run.create(tmp_path / "grows", config) as run:
        shown = content.PageRun.open(tmp_path / "grows")
        before = shown.content
        assert "no design yet" in result.top_html(shown)
        assert before.trials == ()
        assert shown.content is before
        run.add_trials(trials)
        after = shown.content
        assert after.done == 6
        assert after.version > before.version
        assert shown.first == max(trials, key=lambda trial: trial.accuracy or 0).id
        shown.close()


def test_a_missing_file_is_told_and_the_rest_goes_on(tmp_path: Path, folder: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "broken"))
    shown = content.PageRun.open(path)
    gone, damaged = (one.id for one in shown.content.models)
    (path / "models" / gone / "model.onnx").unlink()
    (path / "models" / damaged / "model.onnx").write_bytes(b"no network")
    assert "is missing: gemkit export" in facts.html(shown, gone)
    assert "is damaged: delete it, then gemkit export" in facts.html(shown, damaged)
    assert "gk-primary" not in facts.html(shown, damaged)
    image = str(next((path / "examples").glob("*.png")))
    with pytest.raises(UserError, match="is missing"):
        try_it.classify(shown, gone, image)
    with pytest.raises(UserError, match=r"model\.onnx"):
        try_it.classify(shown, damaged, image)
    shown.profile(threading.Event())
    assert "<svg" in facts.cell(shown, damaged)
    probabilities, _ = try_it.classify(shown, "mobilenet_v2", image)
    assert sum(probabilities.values()) == pytest.approx(1)
    shown.close()


def test_commands_name_the_run_as_it_was_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "runs/mine")
    for path, named in ((Path("runs/mine"), "runs/mine"), (tmp_path / "runs/mine", "mine")):
        shown = content.PageRun.open(path)
        id = shown.content.models[0].id
        Path("runs/mine/models", id, "model.onnx").unlink(missing_ok=True)
        assert f"gemkit export {named} {id}" in facts.html(shown, id)
        assert str(tmp_path) not in facts.html(shown, id)
        shown.close()


def test_an_upload_is_classified_as_onnxruntime_does_or_refused(
    shown: content.PageRun, folder: Path, tmp_path: Path
) -> None:
    id = shown.content.models[0].id
    image = next((folder / "examples").glob("*.png"))
    probabilities, note = try_it.classify(shown, id, str(image))
    pixels = np.asarray(Image.open(image), dtype=np.float32)[None, None]
    session = onnxruntime.InferenceSession(str(shown.onnx(id)))
    (logits,) = session.run(None, {"image": (pixels / 255 - np.float32(0.3)) / np.float32(0.4)})
    wanted = np.exp(logits[0] - logits[0].max())
    assert np.allclose(list(probabilities.values()), wanted / wanted.sum(), atol=1e-5)
    assert "8 x 8" in note
    with pytest.raises(UserError, match="choose an image"):
        try_it.classify(shown, id, None)
    # Pillow would start Ghostscript for the second.
    for text in ("no picture", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"):
        (tmp_path / "text.png").write_text(text)
        with pytest.raises(UserError, match="the upload cannot be used: no picture"):
            try_it.classify(shown, id, str(tmp_path / "text.png"))
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"pixels|no picture"):
        try_it.classify(shown, id, str(bomb))


def test_the_page_and_predict_see_the_same_in_every_picture(
    shown: content.PageRun, tmp_path: Path, seed: int
) -> None:
    id = shown.content.models[0].id
    path = shown.onnx(id)
    assert path is not None
    files = write_all([tmp_path], np.random.default_rng(seed))
    answers = predict(path, files, 10, console_for(stderr=True))
    for file, answer in zip(files, answers, strict=True):
        here, _ = try_it.classify(shown, id, str(file))
        there = {entry["name"]: entry["probability"] for entry in answer["classes"]}
        assert here == there, file


# ---- downloads


def test_a_download_is_the_file_and_its_sum_is_right(
    address: str, shown: content.PageRun, folder: Path
) -> None:
    id = shown.content.models[0].id
    status, content = _ask(address, f"/run/files/{id}/model.onnx")
    assert status == 200
    assert content == (folder / "models" / id / "model.onnx").read_bytes()
    onnxruntime.InferenceSession(content)
    assert hashlib.sha256(content).hexdigest() in facts.html(shown, id)
    status, packed = _ask(address, f"/run/zip/{id}.zip")
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        sums = archive.read("shown-found-1/SHA256SUMS").decode().split()
        for sum_, name in zip(sums[::2], sums[1::2], strict=True):
            assert hashlib.sha256(archive.read(f"shown-found-1/{name}")).hexdigest() == sum_
    candidate = shown.content.trials[5].id
    status, content = _ask(address, f"/run/cells/{candidate}.json")
    assert Cell.from_json(json.loads(content)).id == candidate


def _main_button(address: str, told: str) -> tuple[str, str, bytes]:
    """Where the main button leads, what it says, and the bytes that are served there."""
    found = re.search(r'gk-primary" download="([^"]+)" href="([^"]+)">([^<]+)<', told)
    assert found is not None
    status, content = _ask(address, f"/{found[2]}")
    assert status == 200
    return found[1], found[3], content


def _told(run: Path, id: str) -> tuple[str, str]:
    """What the page shows at its top, and of a network."""
    with contextlib.closing(content.PageRun.open(run)) as shown:
        return result.top_html(shown), facts.html(shown, id)


def test_the_main_button_gives_the_recommended_file_and_ort_files_are_listed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))
    images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 1), np.uint8)
    labelled = images, np.arange(40) % 10
    path = page_run.make(tmp_path / "boards", seed)
    with Run.open(path) as run:
        model = run.models()[0]
    int8 = path / "models" / model.id / "model.int8.onnx"
    quantize.to_int8(int8.with_name("model.onnx"), int8, training=labelled, test=labelled)
    to_ort(int8, int8.with_suffix(".ort"), test=labelled)
    assert model.latency_ms is not None
    fast = replace(
        page_run.measurement(str(int8.relative_to(path)), 1, 1, 0.0625),
        precision="int8",
        accuracy=0.945,
    )
    server = page.launch(path, "127.0.0.1", 0, read_only=True)
    try:
        # Not measured, so the file whose accuracy and time are known is handed out.
        top, told = _told(path, model.id)
        name, said, given = _main_button(server.address, top)
        time = formatting.latency(model.latency_ms)
        assert said.startswith(f"Download Found 1 (ONNX fp32, {time}, ")
        assert (name, given) == ("boards-found-1.onnx", int8.with_name("model.onnx").read_bytes())
        assert "the fastest here has not been measured yet: <code>gemkit bench" in told
        for accuracy, wanted in ((0.945, int8), (0.93, int8.with_name("model.onnx"))):
            with Run.open(path, write=True) as run:
                mine = tuple(replace(one, accuracy=0.95) for one in model.measurements)
                measured = (*mine, replace(fast, accuracy=accuracy))
                run.put(replace(model, measurements=measured))
            top, told = _told(path, model.id)
            for part in (top, told):
                name, said, given = _main_button(server.address, part)
                assert given == wanted.read_bytes()
                operators = {node.op_type for node in onnx.load_from_string(given).graph.node}
                assert ("QLinearConv" in operators or "QuantizeLinear" in operators) == (
                    wanted is int8
                )
                if wanted is int8:
                    assert "<small>94.5\N{NO-BREAK SPACE}% right</small>" in top
                    assert said.startswith("Download Found 1 (ONNX int8, 0.0625 ms, ")
                    assert name == "boards-found-1.int8.onnx"
            assert f"InferenceSession(&quot;{name}&quot;" in told
        assert name == "boards-found-1.onnx"  # the less accurate one is fast and not taken
        # Another format of a listed file, and what a minimal build of onnxruntime needs for it.
        served = {}
        for address in re.findall(r'href="(run/files/[^"]+)"', told):
            status, served[address.rpartition("/")[2]] = _ask(server.address, f"/{address}")
            assert status == 200
        x = read_info(int8).normalise(images)
        answers = [
            onnxruntime.InferenceSession(served[f"model.int8.{ending}"]).run(None, {"image": x})[0]
            for ending in ("onnx", "ort")
        ]
        assert served["model.int8.ort"][4:8] == b"ORTM"
        assert np.abs(answers[0] - answers[1]).max() <= 0.02 * np.abs(answers[0]).max()
        assert b"QLinearConv" in served["model.int8.required_operators_and_types.config"]
        # What is recommended and gone, or damaged, is not handed out.
        with Run.open(path, write=True) as run:
            run.put(replace(model, measurements=(*mine, fast)))
        int8.write_bytes(b"damaged")
        given = _main_button(server.address, _told(path, model.id)[0])[2]
        assert given == int8.with_name("model.onnx").read_bytes()
    finally:
        server.close()


def test_links_and_odd_names_are_no_downloads(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "models" / "real").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (run / "models" / "real" / "card.md").write_text("card")
    (run / "models" / "real" / "model.onnx").symlink_to(tmp_path / "secret")
    (run / "models" / "linked").symlink_to(run / "models" / "real")
    assert [one.name for one in downloads.downloads(run, "models", "real")] == ["card.md"]
    assert downloads.downloads(run, "models", "linked") == ()
    for id in ("..", "../..", "a/../..", "/etc", ".hidden", ""):
        assert downloads.downloads(run, "models", id) == ()


FORBIDDEN = (
    "/run/files/ID/../../config.json",
    "/run/files/ID/%2e%2e/%2e%2e/config.json",
    "/run/files/ID/..%2f..%2fsearch.db",
    "/run/files/ID/search.db",
    "/run/files/../config.json",
    "/run/zip/...zip",
    "/page/../page.py",
    "/page/page.css",
    "/onnxruntime/passwd",
    "/onnxruntime/%2e%2e/x",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=RUN/config.json",
    "/gradio_api/file=RUN/search.db",
    "/gradio_api/file=RUN/examples/../config.json",
    "/gradio_api/file=RUN/examples/%2e%2e/config.json",
    "/gradio_api/file=RUN/examples/link.png",
    "/gradio_api/file=http://127.0.0.1:1/",
    "/gradio_api/file=https://8.8.8.8/x",
    "/gradio_api/file=http%3A//8.8.8.8/x",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/gradio_api/openapi.json",
    "/monitoring",
    "/gradio_api/vibe-code/",
    "/gradio_api/deep_link",
    "/docs",
    "/login",
    "//etc/passwd",
    "/search.db",
)


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_else_is_given_away(
    address: str, shown: content.PageRun, folder: Path, path: str
) -> None:
    link = folder / "examples" / "link.png"
    if not link.is_symlink():
        os.symlink(folder / "config.json", link)
    id = shown.content.models[0].id
    asked = path.replace("ID", id).replace("RUN", str(folder.resolve()))
    status, content = _ask(address, asked)
    link.unlink()
    assert status in (400, 403, 404), (status, content[:200])
    # Gradio would ask the other machine.
    assert "=http" not in path or content == b"there is nothing here"
    assert b'"budget"' not in content
    assert b"SQLite" not in content
    assert b"root:" not in content


def test_what_is_no_request_of_the_page_is_refused(address: str) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST"):
        status, _ = _ask(address, "/run/table.json", method, b"")
        assert status == 404
    for path in ("vibe-edit/", "stream/1", "process_recording", "component_server/", "call/x"):
        status, _ = _ask(address, f"/gradio_api/{path}", "POST", b"{}")
        assert status == 404
    status, _ = _ask(address, "/gradio_api/queue/join", "POST", b"x" * 2_000_000)
    assert status == 413
    status, _ = _ask(address, "/gradio_api/upload", "POST", b"x" * 11_000_000)
    assert status == 413
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    parts = iter([b"x" * 1000] * 3)
    connection.request("POST", "/gradio_api/upload", parts, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_an_answer_keeps_others_out(address: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    connection.request("GET", "/run/version.json")
    answer = connection.getresponse()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    connection.close()


def _status(address: str, headers: dict[str, str], path: str = "/run/version.json") -> int:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert "access-control-allow-origin" not in answer.headers
    status = answer.status
    connection.close()
    return status


def test_a_name_that_was_pointed_here_is_refused(address: str, folder: Path) -> None:
    port = urlsplit(address).port
    for host in ("evil.example", f"evil.example:{port}", "192.168.1.5", "localhost.evil.example"):
        assert _status(address, {"Host": host}) == 421
    for host in (f"127.0.0.1:{port}", "localhost", "LOCALHOST:1", "[::1]:80", "127.9.9.9"):
        assert _status(address, {"Host": host}) == 200
    server = page.launch(
        folder,
        "127.0.0.1",
        0,
        read_only=True,
        allow_host=("demo.example",),
        framed_by=("https://a.b",),
    )
    try:
        assert _status(server.address, {"Host": "demo.example"}) == 200
        assert _status(server.address, {"Host": "evil.example"}) == 421
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc)
        connection.request("GET", "/")
        policy = connection.getresponse().headers["content-security-policy"]
        assert policy == "frame-ancestors 'self' https://a.b"
        connection.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("listening", "names", "called", "may"),
    [
        ("0.0.0.0", (), "192.168.1.5", True),
        ("0.0.0.0", (), "localhost", True),
        ("::", (), "2001:db8::1", True),
        ("0.0.0.0", (), "evil.example", False),
        ("box.lan", (), "BOX.lan.", True),
        ("box.lan", (), "evil.example", False),
        ("localhost", (), "10.0.0.1", False),
        ("0.0.0.0", None, "anything.example", True),
        ("0.0.0.0", ("demo.example",), "demo.example", True),
        ("0.0.0.0", (), "", False),
    ],
)
def test_a_page_goes_by_its_own_names(
    listening: str, names: tuple[str, ...] | None, called: str, may: bool
) -> None:
    assert guard.Access(listening, names=names).may_be_called(called) is may


def test_another_site_s_page_can_neither_send_nor_read(address: str) -> None:
    body = (
        b'--e\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n--e--\r\n'
    )
    form = {"Content-Type": "multipart/form-data; boundary=e"}
    foreign = [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-site", "Origin": address},
    ]
    for headers in foreign:
        assert _ask(address, "/gradio_api/upload", "POST", body, {**form, **headers})[0] == 403
    for headers in ({}, {"Origin": address}, {"Sec-Fetch-Site": "same-origin"}):
        assert _ask(address, "/gradio_api/upload", "POST", body, {**form, **headers})[0] == 200
    assert _status(address, {"Origin": "http://evil.example"}) == 403
    assert _status(address, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}) == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert _status(address, followed, "/") == 200


def test_a_function_that_does_not_exist_is_told(address: str) -> None:
    for number in (10_000, -1, "0", None, True, [0]):
        body = json.dumps({"data": [], "fn_index": number, "session_hash": "a"}).encode()
        for path in ("queue/join", "run/predict"):
            headers = {"Content-Type": "application/json"}
            assert _ask(address, f"/gradio_api/{path}", "POST", body, headers)[0] == 404


def test_behind_a_proxy_that_strips_a_prefix_addresses_bear_it(folder: Path) -> None:
    server = page.launch(folder, "127.0.0.1", 0, read_only=True, root_path="/gemkit")
    try:
        config = json.loads(_ask(server.address, "/config")[1])
        assert config["root"] == f"{server.address}/gemkit"
        headers = {"X-Forwarded-Host": "demo.example", "X-Forwarded-Proto": "https"}
        config = json.loads(_ask(server.address, "/config", headers=headers)[1])
        assert config["root"] == "https://demo.example/gemkit"
        assert _ask(server.address, "/run/version.json")[0] == 200
    finally:
        server.close()


def test_what_lasts_is_answered_alike_again_and_only_whole(address: str) -> None:
    page_text = _ask(address, "/")[1].decode()
    path = "/" + re.search(r"assets/[\w.-]+\.js", page_text)[0]  # type: ignore[index]
    part = _ask(address, path, headers={"Range": "bytes=0-9"})
    first, second = _ask(address, path), _ask(address, path)
    assert part == first == second
    assert first[0] == 200
    assert len(first[1]) > 1000
    packed = _ask(address, path, headers={"Accept-Encoding": "gzip"})[1]
    assert gzip.decompress(packed) == first[1]
    assert _ask(address, path + "x")[0] == 404
    assert _ask(address, path + "x")[0] == 404


def test_a_password_guards_everything(folder: Path) -> None:
    server = page.launch(folder, "127.0.0.1", 0, login=("me", "open sesame"), read_only=True)
    try:
        right = base64.b64encode(b"me:open sesame").decode()
        wrong = base64.b64encode(b"me:open").decode()
        for path in ("/", "/run/table.json", "/config", "/page/page.js", "/gradio_api/info"):
            for headers in ({}, {"Authorization": f"Basic {wrong}"}, {"Authorization": "Basic ?"}):
                assert _ask(server.address, path, headers=headers)[0] == 401
            headers = {"Authorization": f"Basic {right}"}
            assert _ask(server.address, path, headers=headers)[0] == 200
    finally:
        server.close()


# ---- for the visitor's browser


def test_measured_cells_are_read_as_a_kit_s(shown: content.PageRun, tmp_path: Path) -> None:
    for count in (-1, 0, 9, 61):
        with pytest.raises(UserError, match=f"from 10 to 60 cells can be measured, not {count}"):
            browser.manifest(shown, count)
    manifest = browser.manifest(shown, 30)
    assert len(manifest["files"]) == 12
    rows = []
    for entry in manifest["files"]:
        content = browser.draft_named(shown, entry["file"])
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        latency = {"p50": 0.2, "p90": 0.3, "p95": 0.3, "p99": 0.4}
        rows.append(
            {
                "file": entry["file"],
                "sha256": entry["sha256"],
                "latency_ms": latency,
                "calm_ms": 0.2,
            }
        )
    value = {"kind": "gemkit measurements", "format": 1, "manifest": manifest}
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps({**value, "device": {"provider": "wasm"}, "measured": rows}))
    skeleton, measured, device = read_measurements(path)
    assert skeleton == page_run.SKELETON
    assert len(measured) == 12
    assert device == {"provider": "wasm"}


def test_the_registry_is_npm_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().startswith("npm_config"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "user"))
    monkeypatch.setenv("npm_config_globalconfig", str(tmp_path / "global"))
    (tmp_path / "user").write_text("fund=false\nregistry = https://npm.example/a\n")
    assert browser.registry() == "https://npm.example/a/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://other.example/")
    assert browser.registry() == "https://other.example/"


def test_another_package_than_the_known_one_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(io.BytesIO):
        pass

    monkeypatch.setenv("GEMKIT_DATA", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "https://npm.example")
    asked = []

    def urlopen(address: str, timeout: float) -> Answer:
        asked.append(address)
        return Answer(b"something else")

    monkeypatch.setattr(browser.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match="checksum"):
        browser.fetch_runtime()
    assert asked == [f"https://npm.example/onnxruntime-web/-/onnxruntime-web-{browser.VERSION}.tgz"]
    assert not any(tmp_path.iterdir())


def test_a_registry_whose_address_cannot_be_asked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMKIT_DATA", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "https://npm example/a")
    with pytest.raises(UserError, match="could not be fetched"):
        browser.fetch_runtime()


def test_a_port_in_use_is_said(folder: Path) -> None:
    server = page.launch(folder, "127.0.0.1", 0, read_only=True)
    port = int(server.address.rpartition(":")[2])
    try:
        with pytest.raises(UserError, match=f"127.0.0.1:{port}.*--port"):
            page.launch(folder, "127.0.0.1", port)
    finally:
        server.close()
