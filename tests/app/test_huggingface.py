"""The folder of a Hugging Face Space: made from a run, and started as a Space starts it."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import yaml

import page_run
from gemkit.app.page import result
from gemkit.app.page.content import PageRun
from gemkit.store import Run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    seed = int(request.config.getoption("--seed"))
    return page_run.make(tmp_path_factory.mktemp("space") / "shown", seed)


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def _read(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        content = bytes(answer.read())
        return gzip.decompress(content) if answer.headers["content-encoding"] else content


def test_a_space_is_made_of_a_run_and_serves_it(
    folder: Path, tmp_path: Path, gemkit: Command
) -> None:
    (folder / "notes.txt").write_text("private")
    code, out, errors = gemkit("space", str(folder), "--out", "made", "--json", "-")
    assert code == 0, errors
    files = json.loads(out)
    made = tmp_path / "made"
    assert "notes.txt" not in {name.rpartition("/")[2] for name in files}
    front = yaml.safe_load((made / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert (made / front["app_file"]).is_file()
    wanted = (made / "requirements.txt").read_text().split()
    assert any(one.startswith("onnxruntime>") for one in wanted)
    assert not any("playwright" in one for one in wanted)

    port = _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GEMKIT")},
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GEMKIT_DATA": str(tmp_path / "cache"),
        "npm_config_registry": "http://127.0.0.1:9/",  # nothing listens there
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, front["app_file"]],
            cwd=made,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 300
        while "the page is at" not in log.read_text() and time.monotonic() < end:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        assert b"Small networks for digits" in _read(address)
        columns = json.loads(_read(f"{address}/run/table.json"))["columns"]
        assert columns["kind"] == [1, 1, 2, *[0] * 12]
        network = _read(f"{address}/run/files/{columns['id'][0]}/model.onnx")
        onnxruntime.InferenceSession(network)
        names = {one["api_name"] for one in json.loads(_read(f"{address}/config"))["dependencies"]}
        assert "selected" in names
        assert not names & {"started", "again"}
        # What runs is what lies in the folder, not the gemkit that made it.
        script = made / "gemkit" / "app" / "page" / "static" / "page.js"
        script.write_text("// changed")
        assert _read(f"{address}/page/page.js") == b"// changed"
    finally:
        process.terminate()
        process.wait(30)
    assert "onnxruntime-web could not be fetched" in log.read_text()


def test_a_space_is_made_again_but_nothing_else_is_overwritten(
    folder: Path, tmp_path: Path, gemkit: Command
) -> None:
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    (clone / ".git" / "HEAD").write_text("ref")
    (clone / "README.md").write_text("---\nsdk: gradio\n---\n")
    for _ in range(2):
        code, out, errors = gemkit("space", str(folder), "--out", str(clone), "--json", "-")
        assert code == 0, errors
        assert (clone / ".git" / "HEAD").read_text() == "ref"
        assert "space/run/search.db" in json.loads(out)
        (clone / "gemkit" / "of_before.py").write_text("")
    gemkit("space", str(folder), "--out", str(clone))
    assert not (clone / "gemkit" / "of_before.py").exists()
    with Run.open(clone / "space" / "run") as run:
        assert len(run.trials()) == 12

    other = tmp_path / "other"
    (other / "app").mkdir(parents=True)
    (other / "app" / "precious.py").write_text("")
    code, _, errors = gemkit("space", str(folder), "--out", str(other))
    assert code == 2
    assert "holds something else (app)" in errors
    assert (other / "app" / "precious.py").exists()
    code, _, errors = gemkit("space", str(folder), "--out", str(folder / "space"))
    assert code == 2
    assert "lies in the run itself" in errors
    made = clone / "space" / "run"
    code, _, errors = gemkit("space", str(made), "--out", str(clone))
    assert code == 2
    assert "the run lies in" in errors
    assert (made / "search.db").exists()


def test_a_run_without_a_network_makes_no_space(
    folder: Path, tmp_path: Path, gemkit: Command
) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "bare"))
    shutil.rmtree(path / "models")
    shutil.rmtree(path / "baselines")
    code, _, errors = gemkit("space", str(path), "--out", "made")
    assert code == 2
    assert errors == (
        f"gemkit: {path} has no network to take along: run `gemkit export {path}` first\n"
    )
    assert not (tmp_path / "made").exists()


def test_a_network_of_the_zoo_makes_a_space(tmp_path: Path, gemkit: Command) -> None:
    code, out, errors = gemkit("space", "zoo:gemnet-tiny", "--out", "made", "--json", "-")
    assert code == 0, errors
    made = tmp_path / "made"
    network = made / "space" / "run" / "models" / "gemnet-tiny"
    assert "space/run/models/gemnet-tiny/card.md" in json.loads(out)
    onnxruntime.InferenceSession(network / "model.onnx")
    front = yaml.safe_load((network / "card.md").read_text().split("---")[1])
    (told,) = front["model-index"][0]["results"]
    shown = PageRun.open(made / "space" / "run")
    text = result.top_html(shown).replace("\N{NO-BREAK SPACE}", " ")
    shown.close()
    assert f"{100 * told['metrics'][0]['value']:.1f} % of the test pictures right" in text
    assert "gemnet-tiny gets" in text
    code, _, errors = gemkit("space", "zoo:gemnet-none", "--out", "other")
    assert code == 2
    assert "gemnet-none" in errors
