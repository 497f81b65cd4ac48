"""The run store: what is written is read again, whole, by one writer, whatever happens."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemkit import store
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.records import (
    Baseline,
    Compared,
    DataInfo,
    Latency,
    Limits,
    Measurement,
    Model,
    Prediction,
    ShortTraining,
    Trial,
    TrialSummary,
)
from gemkit.store import Run

CONFIG: dict[str, Any] = {
    "budget": Budget(macs=3_000_000, latency_ms=0.5).to_json(),
    "seed": 7,
    "data": "digits",
    "workers": 1,
}


def cell(nodes: int) -> Cell:
    """A chain of the given length."""
    return Cell(
        ("input", *["conv1x1"] * nodes), tuple((node, node + 1) for node in range(nodes)), "sum"
    )


def trial(index: int, **values: Any) -> Trial:
    chain = cell(index + 1)
    given = {
        "index": index,
        "round": index // 2,
        "key": chain.key,
        "cell": chain,
        "width": 8,
        "macs": 1000 + index,
        "params": 100,
        "peak_memory_bytes": 4096,
        "seed": 11 + index,
        "epochs": 2,
    }
    return Trial(**{**given, **values})


@pytest.fixture
def run(tmp_path: Path):
    with Run.create(tmp_path / "run", CONFIG) as run:
        yield run


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_a_trial_comes_back_as_it_went_in(run: Run) -> None:
    given = [trial(0, latency_ms=Latency(0.25), predicted=Prediction(0.9)), trial(1)]
    run.add_trials(given)
    assert run.trials() == given


def test_summaries_are_the_trials_without_their_cells(run: Run) -> None:
    given = [trial(0, latency_ms=Latency(0.25)), trial(1), trial(2)]
    run.add_trials(given)
    run.trial_done(1, 0.5, 1.0)
    run.trial_failed(2, "loss is NaN")
    names = ("index", "id", "round", "state", "accuracy", "macs", "params", "width", "epochs")
    names += ("peak_memory_bytes", "error", "latency_ms")
    assert run.trial_summaries() == [
        TrialSummary(
            **{name: getattr(one, name) for name in names},
            nodes=one.cell.nodes,
            edges=len(one.cell.edges),
        )
        for one in run.trials()
    ]


def test_trials_are_found_by_their_id(run: Run) -> None:
    # Two keys that begin alike, and the one that follows them.
    keys = ["a" * 10 + "0" * 22, "a" * 10 + "f" * 22, "a" * 9 + "b" + "0" * 22, "b" * 32]
    run.add_trials([trial(index, key=key) for index, key in enumerate(keys)])
    for id, wanted in (("a" * 10, [0, 1]), ("a" * 9 + "b", [2]), ("a" * 9, []), ("c" * 10, [])):
        assert [one.index for one in run.trials_named(id)] == wanted


def test_states_of_a_trial(run: Run) -> None:
    run.add_trials([trial(0, predicted=Prediction(0.9)), trial(1)])
    run.trial_started(0)
    assert run.trials()[0].state == "running"
    assert run.trials()[0].started is not None
    run.trial_done(0, 0.75, 1.5)
    run.trial_failed(1, "loss is NaN", 0.5)
    done, failed = run.trials()
    assert (done.state, done.accuracy, done.seconds) == ("done", 0.75, 1.5)
    assert done.predicted == Prediction(0.9)
    assert (failed.state, failed.accuracy, failed.error) == ("failed", None, "loss is NaN")
    run.trial_promoted(0, 8)
    again = run.trials()[0]
    assert (again.state, again.epochs, again.accuracy) == ("queued", 8, None)
    assert again.short == ShortTraining(2, 0.75)
    run.trial_demoted(0, "out of memory")
    again = run.trials()[0]
    assert (again.state, again.epochs, again.accuracy) == ("done", 2, 0.75)
    assert (again.error, again.long_error) == (None, "out of memory")
    # Only what is done has an accuracy, only what has failed an error.
    run.trial_done(0, 0.5, 1.0)
    run.trial_failed(0, "lost")
    assert (run.trials()[0].accuracy, run.trials()[0].error) == (None, "lost")
    run.trial_done(0, 0.5, 1.0)
    assert (run.trials()[0].accuracy, run.trials()[0].error) == (0.5, None)
    run.trial_tried_again(1)
    assert (run.trials()[1].state, run.trials()[1].error, run.trials()[1].tried_again) == (
        "queued",
        None,
        True,
    )
    run.remove_trial(0)
    assert [one.index for one in run.trials()] == [1]


def test_an_accuracy_that_is_no_number_is_not_stored(run: Run) -> None:
    run.add_trials([trial(0)])
    with pytest.raises(ValueError, match="nan"):
        run.trial_done(0, float("nan"), 1.0)


def test_a_cell_is_stored_once(run: Run) -> None:
    run.add_trials([trial(0)])
    with pytest.raises(sqlite3.IntegrityError):
        run.add_trials([trial(1), trial(2, key=cell(1).key)])
    assert [one.index for one in run.trials()] == [0]  # all of a batch or none of it


def measured(**values: Any) -> Measurement:
    given: dict[str, Any] = {
        "model": "abc",
        "provider": "CPUExecutionProvider",
        "precision": "fp32",
        "threads": 1,
        "batch": 1,
        "latency_ms": Latency(0.2, 0.3, 0.4, 0.5),
        "throughput": 5000.0,
        "load_ms": 1.0,
        "file_bytes": 1000,
    }
    return Measurement(**{**given, **values})


def test_json_has_the_documented_names(run: Run) -> None:
    run.add_trials([trial(0, latency_ms=Latency(0.25))])
    run.put(
        Model(
            id="abc",
            cell=cell(2),
            state="done",
            accuracy=0.97,
            latency_ms=Latency(0.2),
            onnx="models/abc/model.onnx",
            measurements=(measured(),),
            trial=0,
            validation_accuracy=0.9,
        )
    )
    run.put(Baseline(id="mobilenet", macs=10, limits=Limits(11)))
    value = json.loads(json.dumps(run.content().to_json(), allow_nan=False))
    kinds = ["trials", "models", "baselines", "compared"]
    assert list(value) == [
        "run",
        "budget",
        *kinds,
        "recommended",
        "recommended_files",
        "recommendation",
    ]
    assert value["budget"] == CONFIG["budget"]
    assert value["trials"][0]["latency_ms"] == {"p50": 0.25}
    assert Cell.from_json(value["trials"][0]["cell"]) == cell(1)
    names = {"id", "cell", "accuracy", "macs", "params", "peak_memory_bytes", "latency_ms"}
    assert (names | {"seed", "state", "error"}) <= set(value["trials"][0])
    assert (names | {"onnx", "parity_max_abs", "measurements"}) <= set(value["models"][0])
    assert value["models"][0]["extra"] == {"trial": 0, "validation_accuracy": 0.9}
    (one,) = value["models"][0]["measurements"]
    assert one["latency_ms"] == {"p50": 0.2, "p90": 0.3, "p95": 0.4, "p99": 0.5}
    assert {"model", "provider", "precision", "threads", "batch", "file_bytes"} <= set(one)
    assert value["baselines"][0]["id"] == "mobilenet"
    assert value["baselines"][0]["extra"] == {"limits": {"max_macs": 11}}


def test_what_is_no_json_is_not_stored(run: Run) -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            run.add_trials([trial(0, predicted=Prediction(number))])
        with pytest.raises(ValueError, match="JSON"):
            run.put(Model(id="a", cell=cell(2), images_per_second=number))
        with pytest.raises(ValueError, match="JSON"):
            run.set_setting("a", {"mean": number})
    assert (run.trials(), run.models(), run.setting("a", float)) == ([], [], None)


def test_a_comparisons_training_comes_back_as_it_went_in(run: Run) -> None:
    skeleton = skeleton_for((1, 8, 8), 10)
    given = Compared(
        id="found@3", network="found", seed=3, architecture=Architecture((cell(2),), skeleton, 8)
    )
    run.put(given)
    assert run.compared() == [given]


def test_a_network_takes_the_place_of_what_has_its_id(run: Run) -> None:
    first = Model(id="b", cell=cell(2), accuracy=0.5, state="done", trial=3)
    second = Model(id="a", cell=cell(3), accuracy=0.7)
    for one in (first, second):
        run.put(one)
    run.put(replace(first, onnx="models/b/model.onnx", trial=None))
    assert run.models() == [replace(first, onnx="models/b/model.onnx", trial=None), second]


def test_what_a_later_gemkit_stored_under_extra_is_kept(run: Run) -> None:
    run.put(Model(id="a", cell=cell(2), trial=3))
    run.add_trials([trial(0)])
    with contextlib.closing(sqlite3.connect(run.path / "search.db")) as other, other:
        for table in ("models", "trials"):
            other.execute(f"UPDATE {table} SET extra = json_set(extra, '$.later', json('[1]'))")
    run.put(replace(run.models()[0], accuracy=0.5, trial=None))
    run.trial_done(0, 0.5, 1.0)
    with contextlib.closing(sqlite3.connect(run.path / "search.db")) as other:
        for table in ("models", "trials"):
            ((extra,),) = other.execute(f"SELECT extra FROM {table}")
            assert json.loads(extra) == {"later": [1]}


def test_settings(run: Run) -> None:
    assert run.setting("ranking", list[str]) is None
    assert run.setting("ranking", list[str], ["none"]) == ["none"]
    run.set_setting("ranking", ["a"])
    run.set_setting("ranking", ["a", "b"])
    assert run.setting("ranking", list[str]) == ["a", "b"]
    data = DataInfo("digits", train=1437, test=360, input_shape=(1, 8, 8), class_names=("0", "1"))
    run.set_setting("data", data)
    assert run.setting("data", DataInfo) == data
    with pytest.raises(UserError, match="setting 'data'"):
        run.setting("data", list[str])


def test_readers_see_a_running_search(run: Run) -> None:
    run.add_trials([trial(0)])
    with Run.open(run.path) as reader:
        assert [one.state for one in reader.trials()] == ["queued"]
        run.trial_done(0, 0.5, 1.0)
        assert [one.state for one in reader.trials()] == ["done"]
        assert reader.budget == Budget(macs=3_000_000, latency_ms=0.5)
        assert reader.seed == 7


def test_a_reader_holds_up_no_writer(run: Run) -> None:
    run.add_trials([trial(0)])
    with contextlib.closing(sqlite3.connect(run.path / "search.db")) as reader:
        reader.execute("BEGIN")
        states = "SELECT state FROM trials"
        assert reader.execute(states).fetchall() == [("queued",)]
        run.trial_done(0, 0.5, 1.0)
        assert reader.execute(states).fetchall() == [("queued",)]  # as when it began
        reader.execute("COMMIT")
        assert reader.execute(states).fetchall() == [("done",)]


def test_a_reader_cannot_write(run: Run) -> None:
    with Run.open(run.path) as reader, pytest.raises(UserError) as error:
        reader.set_setting("a", 1)
    assert "search.db" in sentence(error)


def test_a_run_in_a_folder_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "strange ?#% ü name"
    with Run.create(path, CONFIG) as run:
        run.add_trials([trial(0)])
    with Run.open(path) as run:
        assert len(run.trials()) == 1
    assert (path / "search.db").is_file()


def read_without_writing(path: Path) -> str:
    """What another process finds in a run whose folder it cannot write to: how many trials."""
    path.chmod(0o555)
    path.parent.chmod(0o755)
    # A folder's mode does not bind root, so root reads as nobody.
    code = f"""
import os, urllib.parse  # what is imported late may lie where only root can read
from gemkit.errors import UserError
from gemkit.store import Run
if os.geteuid() == 0:
    os.setuid(65534)
try:
    print(len(Run.open({str(path)!r}).trials()))
except UserError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not (path / "search.db-shm").exists()
    path.chmod(0o755)
    return result.stdout.strip()


def test_a_read_only_folder_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Run.create(path, CONFIG) as run:
            run.add_trials([trial(0)])
        assert read_without_writing(path) == "1"


def test_a_read_only_folder_with_a_log_is_refused() -> None:
    """The database alone would lack the newest trials."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Run.create(Path(folder) / "open", CONFIG) as run:
            run.add_trials([trial(0)])
            shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("*-shm"))
        assert (path / "search.db-wal").stat().st_size
        said = read_without_writing(path)
        assert said.startswith(f"{path / 'search.db'} cannot be opened: ")


# -- one writer


def test_the_second_writer_is_refused(run: Run) -> None:
    with pytest.raises(UserError) as error:
        Run.open(run.path, write=True)
    assert "another process" in sentence(error)


@pytest.mark.parametrize("damage", ["a folder", "no tables"])
def test_a_run_that_cannot_be_opened_is_left_unlocked(tmp_path: Path, damage: str) -> None:
    path = finished(tmp_path / "run")
    if damage == "a folder":
        (path / "search.db").unlink()
        (path / "search.db").mkdir()
    else:
        with sqlite3.connect(path / "search.db") as connection:
            connection.execute("DROP TABLE settings")
        connection.close()
    # The first error is kept, and with it everything that its frames hold.
    with pytest.raises(UserError, match=r"search\.db") as first:
        Run.open(path, write=True)
    with pytest.raises(UserError, match=r"search\.db") as second:
        Run.open(path, write=True)
    assert str(first.value) == str(second.value)


HOLDER = """
import time
from test_store import CONFIG, trial
from gemkit.store import Run
run = Run.create({path!r}, CONFIG)
run.add_trials([trial(0), trial(1)])
run.trial_done(0, 0.5, 1.0)
run.trial_started(1)
print("ready", flush=True)
time.sleep(60)
"""


def test_the_lock_dies_with_its_process_and_running_trials_are_queued_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(path=str(path))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match="another process"):
        Run.start(path, CONFIG, resume=True)
    with Run.open(path) as reader:
        assert reader.is_being_written()
        assert [one.state for one in reader.trials()] == ["done", "running"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Run.open(path) as reader:
        assert not reader.is_being_written()
        assert [one.state for one in reader.trials()] == ["done", "running"]
    with Run.start(path, CONFIG, resume=True) as run:
        assert [one.state for one in run.trials()] == ["done", "queued"]
        assert [(one.index, one.seed, one.cell) for one in run.trials()] == [
            (one.index, one.seed, one.cell) for one in (trial(0), trial(1))
        ]


# -- beginning and resuming


def test_a_run_that_is_not_there_is_told_its_neighbours(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"is no folder: name the folder of a run, one of {run.path}$"
    ):
        Run.open(run.path.with_name("rum"))
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        with pytest.raises(UserError, match=r"name the folder of a run$"):
            Run.open(tmp_path / folder / "run")


def test_what_older_versions_did_not_store_is_as_it_was_then() -> None:
    """Version 0.1.0 had one skeleton, the first of today's table."""
    assert trial(0).skeleton == 0
    assert Model(id="a", cell=cell(2)).skeleton == 0


def test_a_run_is_not_begun_over_another(run: Run) -> None:
    run.close()
    with pytest.raises(UserError) as error:
        Run.start(run.path, CONFIG)
    assert f"{run.path} already holds a run" in sentence(error)


def test_a_run_makes_the_folders_above_it_or_says_why_not(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a" / "b" / "run", CONFIG) as run:
        assert run.name == "run"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as error:
        Run.create(tmp_path / "file" / "run", CONFIG)
    assert f"{tmp_path / 'file' / 'run'} cannot be written" in sentence(error)


def test_a_run_is_not_begun_in_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError) as error:
        Run.create(tmp_path, CONFIG)
    assert "thesis.txt" in sentence(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["search.db.backup", "search.dbase", ".locked", "search.db/"])
def test_what_only_begins_like_a_runs_file_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        Run.create(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [name.rstrip("/")]


def test_resume_starts_what_was_killed_before_its_configuration(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", CONFIG) as run:
        run.add_trials([trial(0)])
    (tmp_path / "run" / "config.json").rename(tmp_path / "run" / ".config.json.x1.json")
    (tmp_path / "run" / "search.db").write_bytes(b"half")
    with Run.start(tmp_path / "run", CONFIG, resume=True) as run:
        assert run.trials() == []
    assert (tmp_path / "run" / "config.json").is_file()


def test_another_configuration_is_refused_with_the_difference(run: Run) -> None:
    run.close()
    changed = {
        **CONFIG,
        "data": "cifar10",
        "workers": 4,
        "nodes": 30,
        "trials": 9,
        "budget": Budget(macs=5_000_000, latency_ms=0.5).to_json(),
    }
    with pytest.raises(UserError) as error:
        Run.start(run.path, changed, resume=True, changeable=["workers"])
    text = sentence(error)
    differences = (
        "budget.macs was 3000000, now 5000000",
        'data was "digits", now "cifar10"',
        "nodes was null, now 30",
        "trials was null, now 9",
    )
    assert f": {'; '.join(differences)}. " in text
    assert "workers" not in text
    with Run.start(run.path, {**CONFIG, "workers": 2}, resume=True, changeable=["workers"]):
        pass


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"seed": 1}, "budget"),
        ({"budget": {}, "seed": "one"}, "seed"),
        ({"budget": {"macs": "many"}, "seed": 1}, "macs"),
    ],
)
def test_a_configuration_must_have_budget_and_seed(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError) as error:
        Run.create(tmp_path / "run", config)
    assert named in sentence(error)
    assert not store.is_run(tmp_path / "run")


def test_a_configuration_holds_json_alone(run: Run, tmp_path: Path) -> None:
    run.close()
    with pytest.raises(ValueError, match="JSON"):
        Run.create(tmp_path / "other", {**CONFIG, "share": float("nan")})
    assert not store.is_run(tmp_path / "other")
    with pytest.raises(ValueError, match="JSON"):
        Run.start(run.path, {**CONFIG, "share": float("nan")}, resume=True)
    with Run.create(tmp_path / "other", {**CONFIG, "stages": (1, 2)}) as other:
        assert other.config["stages"] == [1, 2]  # as it will be read again


# -- what is no run, or no longer one


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "empty"):
        with pytest.raises(UserError) as error:
            Run.open(tmp_path / name)
        assert name in sentence(error)


def finished(path: Path) -> Path:
    with Run.create(path, CONFIG) as run:
        run.add_trials([trial(index) for index in range(8)])
        for index in range(8):
            run.trial_done(index, 0.5, 1.0)
        run.put(Model(id="a", cell=cell(2), accuracy=0.5, state="done", latency_ms=Latency(1.0)))
    return path


def test_a_newer_run_is_refused(tmp_path: Path) -> None:
    path = finished(tmp_path / "run")
    connection = sqlite3.connect(path / "search.db")
    connection.execute(f"PRAGMA user_version = {store.FORMAT + 1}")
    connection.close()
    # The folder's name says "newer" as well.
    with pytest.raises(UserError, match=r"newer gemkit \(format \d+, this one reads \d+\)"):
        Run.open(path)
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**about, "format": store.FOLDER_FORMAT + 1}))
    with pytest.raises(UserError, match="update gemkit"):
        Run.open(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "config": {}}', "\xff\xfe"]
)
def test_a_damaged_configuration(tmp_path: Path, text: str) -> None:
    path = finished(tmp_path / "run")
    (path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        Run.open(path)
    assert "config.json" in sentence(error)


def test_a_missing_database(tmp_path: Path) -> None:
    path = finished(tmp_path / "run")
    (path / "search.db").unlink()
    with pytest.raises(UserError) as error:
        Run.open(path)
    assert "search.db" in sentence(error)
    assert not (path / "search.db").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET cell = 'nothing'",
        "UPDATE trials SET cell = '{}'",
        "UPDATE trials SET extra = '[1]'",
        "UPDATE trials SET width = 'broad'",
        "UPDATE trials SET accuracy = 'high'",
        "UPDATE trials SET error = x'00ff'",
        "UPDATE models SET latency_ms = '{'",
        "DROP TABLE settings",
    ],
)
def test_content_that_we_never_write(tmp_path: Path, statement: str) -> None:
    path = finished(tmp_path / "run")
    connection = sqlite3.connect(path / "search.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(UserError) as error, Run.open(path) as run:
        run.content().to_json()
    assert "search.db" in sentence(error)


def test_a_cut_or_flipped_database_gives_an_answer_or_one_sentence(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path = finished(tmp_path / "run")
    whole = (path / "search.db").read_bytes()
    sentences = 0
    for turn in range(30):
        broken = bytearray(whole)
        if turn % 3 == 0:
            broken = broken[: chance.randrange(len(broken))]
        else:
            for _ in range(chance.choice([1, 8, 200])):
                broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        (path / "search.db").write_bytes(broken)
        try:
            with Run.open(path) as run:
                json.dumps(run.content().to_json())
        except UserError as error:
            sentences += 1
            assert "\n" not in str(error)  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
    assert sentences > 5


def test_a_full_disk_is_said_and_costs_nothing_stored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(sqlite3.Connection):
        """A database that cannot grow."""

        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            pages = self.execute("PRAGMA page_count").fetchone()[0]
            self.execute(f"PRAGMA max_page_count = {pages}")

    run.add_trials([trial(0)])
    run.close()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Full))
    with Run.open(run.path, write=True) as full:
        with pytest.raises(UserError) as error:
            full.add_trials([trial(index, error="x" * 5000) for index in range(1, 6)])
        assert "disk is full" in sentence(error)
        assert [one.index for one in full.trials()] == [0]
        full.trial_done(0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("refusal", "free", "said"),
    [
        ("database or disk is full", 10**9, "the disk is full"),
        ("disk I/O error", 0, "the disk is full"),
        ("disk I/O error", 10**9, "is damaged: disk I/O error"),
        ("database disk image is malformed", 0, "is damaged: database disk image is malformed"),
        ("attempt to write a readonly database", 0, "cannot be opened: attempt to write"),
        ("unable to open database file", 0, "cannot be opened: unable to open"),
        ("database is locked", 0, "is locked by another program"),
    ],
)
def test_what_sqlite_refuses_is_told_apart(
    run: Run, monkeypatch: pytest.MonkeyPatch, refusal: str, free: int, said: str
) -> None:
    class Refusing(sqlite3.Connection):
        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            if "FROM trials" in query:
                raise sqlite3.OperationalError(refusal)
            return super().execute(query, *values)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Refusing))
    with Run.open(run.path) as opened, pytest.raises(UserError, match=said) as error:
        opened.trials()
    assert str(run.path / "search.db") in sentence(error)


def test_a_copied_run_opens(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with Run.open(tmp_path / "copy") as run:
        assert len(run.trials()) == 8
