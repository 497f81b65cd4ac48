"""Bad input on the command line: one sentence, exit code 2, nothing written."""

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import page_run
from gemkit import budget
from gemkit.app import cli
from gemkit.app.page import page
from gemkit.app.terminal import show
from gemkit.records import Baseline
from gemkit.store import Run

HEAVY = ("torch", "torchvision", "gradio", "onnxruntime", "onnx", "sklearn", "matplotlib", "scipy")

Outcome = tuple[int, str, str]


def _content(folder: Path) -> dict[str, bytes]:
    """All files below a folder; SQLite's side files come and go with readers."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(("-wal", "-shm"))
    }


def _refused(outcome: Outcome, words: str) -> None:
    code, out, errors = outcome
    assert code == 2
    assert out == ""
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("gemkit: ")
    assert "Traceback" not in errors
    assert re.search(words, errors), errors


BAD_OPTIONS = [
    ("--max-macs 40X", "no count"),
    ("--max-macs -5", "no count"),
    ("--max-macs 0", "greater than zero"),
    ("--max-macs 1k", "MACs budget.*raise that limit"),
    ("--max-params many", "no count"),
    ("--max-params 10", "params budget.*raise that limit"),
    ("--max-latency 2", "the unit is needed"),
    ("--max-latency 0ms", "greater than zero"),
    ("--max-latency 1us", "latency budget.*raise that limit"),
    ("--max-memory 256", "the unit is needed"),
    ("--max-memory 5zB", "no memory size"),
    ("--max-memory 10B", "memory budget.*raise that limit"),
    ("--nodes 0", "--nodes"),
    ("--nodes 31", "--nodes"),
    ("--nodes many", "--nodes"),
    ("--aggregation mean", "--aggregation.*concat"),
    ("--trials 0", "--trials"),
    ("--time 30", "the unit is needed"),
    ("--time -1m", "no time"),
    (f"--time {'9' * 400}h", "no time"),
    ("--workers 0", "--workers"),
    ("--strategy guess", "--strategy.*nasgem"),
    ("--encoder none.safetensors", "none.safetensors"),
    ("--precision fp64", "--precision.*int8"),
    ("--target nowhere", "no target 'nowhere'.*rp2040"),
    ("--target none.json", "none.json"),
    ("--target rp2040 --max-latency 5ms", "latency on rp2040 is not known.*latency kit"),
    ("--target rp2040 --precision fp32", "--precision fp32.*rp2040 are int8"),
    ("--target rp2040 --max-memory 10B", "memory budget.*raise that limit"),
    ("--epochs 0", "--epochs"),
    ("--device tpu", "--device"),
    ("--seed -1", "--seed"),
    ("--seed x", "--seed"),
    ("--top 0", "--top"),
    ("--recipe best", "--recipe"),
    ("--data mnist", "unknown data 'mnist'.*digits"),
    ("--data npz:", "names no path"),
    ("--data npz:none.npz", "none.npz"),
    ("--data imagefolder:none", "none"),
    ("--data", "requires an argument"),
    ("--frobnicate", "No such option"),
    ("--json .", "is a folder"),
    ("--json none/out.json", "does not exist"),
    ("extra", "unexpected extra argument"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_run_refuses_bad_options(
    gemkit: Callable[..., Outcome], tmp_path: Path, options: str, words: str
) -> None:
    _refused(gemkit("run", *options.split()), words)
    assert not list(tmp_path.iterdir())


def _text_file(folder: Path) -> Path:
    path = folder / "text"
    path.write_text("not what it should be\n" * 50)
    return path


def _npz(folder: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "x_train": rng.integers(0, 256, (40, 8, 8), dtype=np.uint8),
        "y_train": np.arange(40) % 2,
        "x_test": rng.integers(0, 256, (10, 8, 8), dtype=np.uint8),
        "y_test": np.arange(10) % 2,
    }
    path = folder / "data.npz"
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return path


BAD_DATA = [
    (lambda folder: _npz(folder, x_train=np.zeros((40, 8, 8))), "x_train.*uint8"),
    (lambda folder: _npz(folder, y_train=np.zeros(40, int)), "class"),
    (lambda folder: _npz(folder, y_train=np.arange(39) % 2), "39|40"),
    (lambda folder: _npz(folder, y_test=np.full(10, 7)), "7"),
    (lambda folder: _npz(folder, y_train=np.full(40, np.nan)), "y_train"),
    (lambda folder: _npz(folder, x_train=np.zeros((40, 1, 1), np.uint8),
                         x_test=np.zeros((10, 1, 1), np.uint8)), "too small|pixels"),
    (_text_file, "npz"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), BAD_DATA)
def test_run_refuses_bad_data(
    gemkit: Callable[..., Outcome], tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path = make(tmp_path)
    before = _content(tmp_path)
    _refused(gemkit("run", "--data", f"npz:{path}"), words)
    assert _content(tmp_path) == before


ABOUT_A_RUN = [
    ("show none", "none"),
    ("show empty", "holds no run"),
    ("show made nothing-like-this", "no trial or model"),
    ("show made {id} --out picture.gif", "png or .svg"),
    ("show made --out picture.png", "name its ID"),
    ("train none", "none"),
    ("train empty", "holds no run"),
    ("train made nothing-like-this", "no trial or model"),
    ("train made --data cifar11", "unknown data"),
    ("train made --epochs 0", "--epochs"),
    ("export none", "none"),
    ("export made nothing-like-this", "no trial or model"),
    ("export made", "weights"),
    ("bench none.onnx", "none.onnx"),
    ("bench text.onnx", "no whole ONNX"),
    ("bench no_such_net", "no_such_net"),
    ("bench made", "gemkit export"),
    ("bench made text.onnx", "one run alone"),
    ("bench mobilenet_v3_small --threads 0", "--threads"),
    ("bench mobilenet_v3_small --batch 1,,2", "--batch"),
    ("bench mobilenet_v3_small --provider abacus", "abacus"),
    ("bench", "Missing argument"),
    ("predict none.onnx picture.png", "none.onnx"),
    ("predict text.onnx picture.png", "no whole ONNX"),
    ("predict text.onnx", "Missing argument"),
    ("app none", "none"),
    ("app empty", "holds no run"),
    ("app made --port 0", "--port"),
    ("app made --host no.such.host.invalid", "--host"),
    ("run --out made", "already holds a run"),
    ("run --out full", "not empty"),
    ("run --out text.onnx", "text.onnx"),
    ("run --out made --resume --seed 7", "another configuration.*seed"),
    ("search --out made", "already holds a run"),
    ("predicts", "No such command"),
]


@pytest.mark.parametrize(("words", "sentence"), ABOUT_A_RUN)
def test_commands_refuse_bad_places(
    gemkit: Callable[..., Outcome], tmp_path: Path, made_run: Path, words: str, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    _text_file(tmp_path).rename(tmp_path / "text.onnx")
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    with Run.open(made_run) as run:
        id = run.models()[0].id
    before = _content(tmp_path)
    _refused(gemkit(*words.format(id=id).split()), sentence)
    after = _content(tmp_path)
    after.pop("made/.lock", None)
    before.pop("made/.lock", None)
    assert after == before


def test_a_damaged_run_is_refused(
    gemkit: Callable[..., Outcome], tmp_path: Path, made_run: Path
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(made_run, newer)
    about = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(about | {"format": 99}))
    _refused(gemkit("show", "newer"), "newer gemkit")
    (newer / "config.json").write_text("{")
    _refused(gemkit("show", "newer"), "no valid JSON")
    (made_run / "search.db").write_bytes(b"not a database" * 100)
    _refused(gemkit("show", "made"), "damaged")


def test_an_id_that_could_be_two_is_refused(gemkit: Callable[..., Outcome], made_run: Path) -> None:
    with contextlib.closing(sqlite3.connect(made_run / "search.db")) as database, database:
        database.execute("DELETE FROM models")
        for index, key in enumerate(("aa1", "aa2")):
            database.execute(
                'UPDATE trials SET id = ?, key = ? WHERE "index" = ?',
                (key.ljust(10, "0"), key.ljust(32, "0"), index),
            )
    _refused(gemkit("show", "made", "aa"), "could be")


def test_a_port_in_use_is_refused(gemkit: Callable[..., Outcome], made_run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _refused(gemkit("app", "made", "--port", str(port)), f"{port}.*--port")


def test_cuda_is_refused_where_there_is_none(
    gemkit: Callable[..., Outcome], tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _refused(gemkit("run", "--device", "cuda"), "CUDA|cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(
    gemkit: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    _refused(gemkit("run", "--out", "locked/run"), "permission")


@pytest.mark.parametrize(
    "words",
    [
        ["show", "LONG"],
        ["show", "LONG/run"],
        ["train", "LONG"],
        ["bench", "LONG.onnx"],
        ["bench", "zoo:gemnet-tiny", "--json", "LONG"],
        ["predict", "zoo:gemnet-tiny", "LONG.png"],
        ["run", "--data", "npz:LONG"],
        ["run", "--data", "imagefolder:LONG"],
        ["run", "--out", "LONG"],
        ["search", "--max-macs", "1M", "--encoder", "LONG"],
        ["run", "--target", "LONG.json", "--max-latency", "1ms"],
        ["latency", "fit", "LONG", "--name", "mine"],
        ["ablate", "LONG", "--metric", "accuracy"],
    ],
    ids=" ".join,
)
def test_a_place_that_cannot_be_looked_at_is_refused(
    gemkit: Callable[..., Outcome], words: list[str]
) -> None:
    """A name that no file can have; a folder that may not be entered takes the same way."""
    words = [word.replace("LONG", "x" * 300) for word in words]
    _refused(gemkit(*words), "x{300}.* cannot be (read|used): file name too long")


@pytest.mark.parametrize("data", ["npz:~nosuchuser/x.npz", "imagefolder:~nosuchuser"])
def test_the_home_of_nobody_is_refused(gemkit: Callable[..., Outcome], data: str) -> None:
    _refused(gemkit("run", "--data", data), "~nosuchuser.*(does not exist|is no folder)")


# ---- what helps


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_help_imports_nothing_heavy() -> None:
    loaded = _python(
        "import sys\n"
        "from gemkit.app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    assert "Usage: gemkit" in loaded
    assert not set(HEAVY) & set(loaded.rpartition("loaded:")[2].split())


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in cli.cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_the_script_itself_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemkit.app", "run", "--max-macs", "1k"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    _refused((done.returncode, done.stdout, done.stderr), "MACs budget of 1k")
    assert not list(tmp_path.iterdir())


def test_names_offered_are_those_that_exist() -> None:
    from gemkit.recipe import RECIPES
    from gemkit.search.strategies import STRATEGIES

    def offered(command: str, option: str) -> list[str]:
        (found,) = [one for one in cli.cli.commands[command].params if one.name == option]
        return list(found.type.choices)

    assert offered("search", "strategy") == list(STRATEGIES)
    assert offered("train", "recipe") == list(RECIPES)
    assert offered("run", "precision") == list(budget.PRECISIONS)


def test_an_internal_failure_keeps_its_traceback(
    gemkit: Callable[..., Outcome], made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(show, "show_run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["show", "made"])


def test_ctrl_c_tells_how_to_go_on(
    gemkit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemkit.app.steps import pipeline

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupted)
    code, out, errors = gemkit("run", "--max-macs", "2M")
    assert code == 130
    assert out == ""
    assert len(errors.splitlines()) == 1
    assert "gemkit run --max-macs 2M --out runs/digits --resume" in errors


def test_resuming_takes_what_the_first_command_line_gave(
    gemkit: Callable[..., Outcome], made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemkit.app.steps import pipeline

    asked: dict[str, object] = {}

    def remembered(**options: object) -> None:
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", remembered)
    first = "gemkit run --data digits --epochs 3 --top 1 --workers 1 --time 60s --recipe full"
    with Run.open(made_run, write=True) as run:
        run.set_setting("commands", [first, "gemkit run --out made --resume"])
    gemkit("run", "--out", "made", "--resume", "--top", "4")
    wanted = {"epochs": 3, "top": 4, "workers": 1, "time_limit": 60.0, "recipe": "full"}
    assert {name: asked[name] for name in wanted} == wanted
    # A line that no version understands any more is no obstacle.
    with Run.open(made_run, write=True) as run:
        run.set_setting("commands", ["gemkit run --no-such-option 3"])
    gemkit("run", "--out", "made", "--resume")
    assert asked["workers"] is None


# ---- show


def test_show_as_json_and_nothing_else(gemkit: Callable[..., Outcome], made_run: Path) -> None:
    code, out, _ = gemkit("show", "made", "--json")
    value = json.loads(out)
    assert code == 0
    assert set(value) == {
        "run",
        "budget",
        "trials",
        "models",
        "baselines",
        "compared",
        "recommended",
        "recommended_files",
        "recommendation",
    }
    assert [trial["state"] for trial in value["trials"]] == ["done", "done", "done", "failed"]
    for name in ("id", "cell", "accuracy", "macs", "params", "peak_memory_bytes", "latency_ms",
                 "seed", "state", "error"):  # fmt: skip
        assert all(name in trial for trial in value["trials"])
        assert all(name in model for model in value["models"])


def test_show_writes_json_to_a_file_and_tables_to_the_terminal(
    gemkit: Callable[..., Outcome], made_run: Path, tmp_path: Path
) -> None:
    code, out, _ = gemkit("show", "made", "--json", "out.json")
    value = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    for trial in value["trials"]:
        assert trial["id"] in out
    assert "failed: the loss was not finite" in out


def test_names_are_printed_as_they_are(
    gemkit: Callable[..., Outcome], made_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs[" / "b] :cat: [red]"
    shutil.copytree(made_run, folder)
    code, out, _ = gemkit("show", str(folder))
    assert code == 0
    assert str(folder) in "".join(out.splitlines())


def test_show_draws_a_cell(gemkit: Callable[..., Outcome], made_run: Path, tmp_path: Path) -> None:
    with Run.open(made_run) as run:
        trial = run.trials()[3]
    code, out, _ = gemkit("show", "made", trial.id[:6], "--out", "cell.png")
    assert code == 0
    assert f"{trial.macs:,}" in out
    with Image.open(tmp_path / "cell.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    reads = [line for line in out.splitlines() if "<-" in line]
    assert len(reads) == trial.cell.nodes
    assert sum("* " in line for line in reads) == len(trial.cell.leaves)


def test_show_tells_what_a_known_network_costs(
    gemkit: Callable[..., Outcome], made_run: Path
) -> None:
    with Run.open(made_run, write=True) as run:
        known = Baseline(id="mobilenet_v2", macs=912_345, params=50_000, accuracy=0.9, state="done")
        run.put(known)
    code, out, _ = gemkit("show", "made", "mobilenet_v2")
    assert code == 0
    assert "912,345" in out
    assert "90.00 %" in out
    _refused(gemkit("show", "made", "mobile", "--out", "cell.png"), "without a cell")


def test_copies_of_a_file_keep_what_was_measured_of_it(
    gemkit: Callable[..., Outcome], tmp_path: Path, seed: int
) -> None:
    page_run.make(tmp_path / "shown", seed)
    code, out, errors = gemkit("export", "shown", "--out", "deploy")
    assert code == 0, errors
    assert out.splitlines()[-1] == "next: gemkit bench deploy/*.onnx"
    with Run.open("shown") as run:
        models = run.models()
    for model in models:
        card = (tmp_path / "deploy" / f"{model.id}.card.md").read_text()
        assert "a processor" in card
        assert "Not measured here" not in card


def test_the_page_asks_for_the_password_that_it_was_given(
    gemkit: Callable[..., Outcome], made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = []
    monkeypatch.setattr(page, "serve", lambda *_, login, **__: logins.append(login))
    monkeypatch.delenv("GEMKIT_PASSWORD", raising=False)
    open_page = ["app", str(made_run), "--auth"]
    _refused(gemkit(*open_page, "me"), "GEMKIT_PASSWORD")  # nobody is there to type one
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", lambda text, hide_input, err: "typed in secret")
    assert gemkit(*open_page, "me")[0] == 0
    monkeypatch.setenv("GEMKIT_PASSWORD", "from outside")
    assert gemkit(*open_page, "me")[0] == 0
    assert gemkit("app", str(made_run))[0] == 0
    assert logins == [("me", "typed in secret"), ("me", "from outside"), None]
    _refused(gemkit(*open_page, "me:you"), "colon")
    monkeypatch.setenv("GEMKIT_PASSWORD", "short")
    _refused(gemkit(*open_page, "me"), "at least 8")


def test_the_page_is_told_its_names_and_says_what_travels_in_clear(
    gemkit: Callable[..., Outcome], made_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Started:
        address = "http://127.0.0.1:1"

        def wait(self) -> None:
            pass

        close = wait

    def launch(*_: Any, **options: Any) -> Started:
        asked.append(options)
        return Started()

    monkeypatch.setattr(page, "launch", launch)
    monkeypatch.setenv("GEMKIT_PASSWORD", "open sesame")
    open_page = ["app", str(made_run), "--auth", "me"]
    names = ["--allow-host", "Demo.example.", "--allow-host", "b.example"]
    told = str(gemkit(*open_page, "--host", "0.0.0.0", *names, "--root-path", "/gemkit/"))
    assert "travels in clear" in told
    assert asked[0]["allow_host"] == ("demo.example", "b.example")
    assert asked[0]["root_path"] == "/gemkit"
    assert "in clear" not in str(gemkit(*open_page))
    _refused(gemkit(*open_page, "--allow-host", "http://a b"), "no host name")
    _refused(gemkit(*open_page, "--root-path", "gemkit"), "no path")


def test_without_a_command_there_is_help(gemkit: Callable[..., Outcome]) -> None:
    code, out, errors = gemkit()
    assert (code, errors) == (0, "")
    for name in ("run", "search", "train", "export", "bench", "show", "predict", "app"):
        assert f"\n  {name} " in out


def _words(text: Sequence[str]) -> str:
    return " ".join(text)


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", "plain", "a;b"])
def test_what_to_do_next_can_be_pasted(
    gemkit: Callable[..., Outcome], made_run: Path, name: str
) -> None:
    """A shell reads the words of a hint as they are meant."""
    place = made_run.rename(made_run.with_name(name))
    _, out, _ = gemkit("show", str(place))
    (hint,) = [line for line in out.splitlines() if "next: " in line]
    first = hint.partition("next: ")[2].split("   or   ")[0]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {first}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:3] == ["gemkit", "show", str(place)]
