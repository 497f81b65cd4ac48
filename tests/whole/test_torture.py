"""Every command that writes is killed at random moments, gone on with, and its files looked at.

    python -m pytest tests/whole/test_torture.py -n 0 --kills 50       # `make torture`

A kill is SIGKILL to the command and all its processes, at a moment drawn anew. After each kill the
run is opened and every file in it is read; nothing that was known before may be missing. In the
end the results are those of a run that nobody disturbed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gemkit.store import Run
from run_files import files_are_whole

SEARCH = [
    "search", "--data", "digits", "--nodes", "8", "--max-macs", "150k", "--trials", "5",
    "--epochs", "1", "--workers", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def kills(request: pytest.FixtureRequest) -> int:
    """How many times each of the five commands is killed."""
    wanted = int(request.config.getoption("--kills"))
    if not wanted:
        pytest.skip("minutes of kills: `make torture` (what each part does is tested beside it)")
    return max(1, round(wanted / 5))


class Gemkit:
    """Starts the command line in a folder and kills it at random moments."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "GEMKIT_CONFIG": str(folder)}

    def start(self, *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "gemkit.app", *map(str, words)],
            cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: object) -> float:
        """Let a command end well; gives the seconds it took."""
        began = time.monotonic()
        process = self.start(*words)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return time.monotonic() - began

    def torture(
        self,
        kills: int,
        lasts: float,
        check: Callable[[], None],
        *words: object,
        anew: Callable[[], object] = lambda: None,
    ) -> None:
        """Kill a command so many times, checking in between, then let it end well.

        Args:
            lasts: about how long the command takes; it is killed before that.
            anew: called when a command ended before it was killed: undoes what it did.
        """
        killed = starts = 0
        while killed < kills:
            process, starts = self.start(*words), starts + 1
            assert starts <= 5 * kills, f"{words[0]} nearly always ends before it is killed"
            try:
                output, _ = process.communicate(timeout=self.rng.uniform(0.02, 0.9) * lasts)
                assert process.returncode == 0, output
                check()
                anew()
                continue
            except subprocess.TimeoutExpired:
                kill(process)
                killed += 1
            check()
        self.run(*words)
        check()
        print(f"{words[0]}: {killed} kills in {starts} starts")


def kill(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def trials_of(path: Path) -> list[tuple[Any, ...]]:
    """All that a search decides, without what a clock says."""
    with Run.open(path) as run:
        return [
            (one.index, one.round, one.key, one.width, one.seed, one.epochs, one.state,
             one.accuracy, one.macs, one.predicted, one.short)
            for one in run.trials()
        ]  # fmt: skip


def test_search(tmp_path: Path, kills: int, seed: int) -> None:
    gemkit = Gemkit(tmp_path, seed)
    search = [*SEARCH, "--seed", str(seed % 1000)]
    lasts = gemkit.run(*search, "--out", "quiet")
    known: dict[int, tuple[Any, ...]] = {}
    run = tmp_path / "run"

    def check() -> None:
        if not (run / "config.json").exists():
            assert not known
            return
        for trial in trials_of(run):
            if trial[0] in known:
                assert trial == known[trial[0]], "a finished trial changed"
            if trial[6] == "done":
                known[trial[0]] = trial
        assert known.keys() <= {trial[0] for trial in trials_of(run)}, "a finished trial is lost"
        files_are_whole(run)

    def anew() -> None:
        shutil.rmtree(run)
        known.clear()

    gemkit.torture(kills, lasts, check, *search, "--out", "run", "--resume", anew=anew)
    assert trials_of(run) == trials_of(tmp_path / "quiet")
    assert {trial[6] for trial in trials_of(run)} == {"done"}


@pytest.fixture(scope="module")
def searched(
    kills: int, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """A run that was searched and not trained."""
    del kills  # without any, all is skipped before this search
    folder = tmp_path_factory.mktemp("torture")
    Gemkit(folder, 0).run(*SEARCH, "--seed", request.config.getoption("--seed"), "--out", "run")
    return folder / "run"


def copied(run: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-r", run, folder / "run"], check=True)
    return folder / "run"


def test_training(searched: Path, tmp_path: Path, kills: int, seed: int) -> None:
    (tmp_path / "quiet").mkdir()
    quiet, run = copied(searched, tmp_path / "quiet"), copied(searched, tmp_path)
    gemkit = Gemkit(tmp_path, seed)
    train = ["--epochs", "6", "--top", "1", "--workers", "1", "--device", "cpu"]
    lasts = gemkit.run("train", "quiet/run", *train)

    def check() -> None:
        trials_of(run)
        files_are_whole(run)

    def anew() -> None:
        shutil.rmtree(run)
        copied(searched, tmp_path)

    gemkit.torture(kills, lasts, check, "train", "run", *train, anew=anew)
    assert trials_of(run) == trials_of(quiet)
    weights = sorted(path.relative_to(quiet) for path in quiet.rglob("models/*/*.safetensors"))
    assert weights
    for path in weights:
        ours, theirs = load_file(run / path), load_file(quiet / path)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def trained(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one trained network."""
    run = copied(searched, tmp_path_factory.mktemp("trained"))
    Gemkit(run.parent, 0).run("train", "run", "--epochs", "1", "--top", "1", "--device", "cpu")
    return run


def test_export_and_bench(trained: Path, tmp_path: Path, kills: int, seed: int) -> None:
    run = copied(trained, tmp_path)
    gemkit = Gemkit(tmp_path, seed)
    before = trials_of(run)

    def check() -> None:
        assert trials_of(run) == before
        files_are_whole(tmp_path)

    export = ["export", "run", "--precision", "fp32,fp16,int8", "--out", "deploy"]
    lasts = gemkit.run(*export)
    gemkit.torture(kills, lasts, check, *export)
    bench = ["bench", "run", "--json", "bench.json"]
    lasts = gemkit.run(*bench)
    gemkit.torture(kills, lasts, check, *bench)
    assert (tmp_path / "bench.json").exists()
    with Run.open(run) as opened:
        assert opened.models()[0].measurements


def test_page(trained: Path, tmp_path: Path, kills: int, seed: int) -> None:
    run = copied(trained, tmp_path)
    gemkit = Gemkit(tmp_path, seed)
    before = trials_of(run)
    for _ in range(kills):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = gemkit.start("app", "run", "--port", port)
        try:
            output, _ = process.communicate(timeout=gemkit.rng.uniform(0.5, 15))
            pytest.fail(f"the page ended by itself: {output}")
        except subprocess.TimeoutExpired:
            kill(process)
        assert trials_of(run) == before
        files_are_whole(run)
