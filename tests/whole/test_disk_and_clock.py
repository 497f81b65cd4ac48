"""A disk that is full or read-only, and a clock that jumps: one sentence, and nothing is lost."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemkit import store
from gemkit.app import cli
from gemkit.store import Run
from run_files import files_are_whole

SEARCH = [
    "search", "--data", "digits", "--nodes", "6", "--max-macs", "100k", "--trials", "3",
    "--epochs", "1", "--workers", "1", "--device", "cpu", "--seed", "5", "--resume",
]  # fmt: skip
STEPS: list[list[str]] = [
    [*SEARCH, "--out", "RUN"],
    ["train", "RUN", "--epochs", "2", "--top", "1", "--device", "cpu"],
    ["export", "RUN"],
]
GROWTH = 400_000
"""Bytes by which the small disk grows, at most, whenever it was full."""

Gemkit = Callable[..., tuple[int, str]]


@pytest.fixture
def gemkit(capsys: pytest.CaptureFixture[str]) -> Gemkit:
    """Runs a command in this process; its exit code and what it said on standard error."""

    def call(words: list[str], run: Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(run) if word == "RUN" else word for word in words])
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def trials(run: Path) -> list[Any]:
    """What a search found, without what a clock says."""
    with Run.open(run) as opened:
        return [
            (one.index, one.key, one.width, one.seed, one.state, one.accuracy)
            for one in opened.trials()
        ]


def models(run: Path) -> list[Any]:
    """What the trainings reached."""
    with Run.open(run) as opened:
        return [(one.id, one.accuracy) for one in opened.models()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the steps on a good machine."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    for words in STEPS:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(run) if word == "RUN" else word for word in words])
        assert not ended.value.code
    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory with these options, or changes them; skipped where that is denied."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        words = ["mount", "-t", "tmpfs", "-o", options, "gemkit-test", str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    try:
        yield mount
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_again_and_again(
    undisturbed: Path, disk: Callable[[str], Path], gemkit: Gemkit, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size, refused = 0, 0
    for words in STEPS:
        while True:
            size += 4096 + int(rng.integers(GROWTH))
            run = disk(f"size={size}") / "run"
            code, said = gemkit(words, run)
            if not code:
                break
            refused += 1
            assert code == 2, said
            assert "disk is full" in said
            assert len(said.strip().splitlines()[-1]) > 20
            files_are_whole(run)
    assert refused
    assert (trials(run), models(run)) == (trials(undisturbed), models(undisturbed))


def test_a_disk_that_can_only_be_read(
    undisturbed: Path, disk: Callable[[str], Path], gemkit: Gemkit
) -> None:
    place = disk("size=100m")
    subprocess.run(["cp", "-r", str(undisturbed), str(place / "run")], check=True)
    disk("ro")
    assert gemkit(["show", "RUN"], place / "run")[0] == 0
    for words in [*STEPS, ["bench", "RUN"], [*STEPS[0][:-1], str(place / "new")]]:
        code, said = gemkit(words, place / "run")
        assert code == 2, (words, said)
        assert "cannot be" in said
        assert said.count("\n") <= 2
    assert models(place / "run") == models(undisturbed)


def test_a_clock_that_jumps(
    undisturbed: Path,
    tmp_path: Path,
    gemkit: Gemkit,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(seed)

    def anytime() -> str:
        moment = datetime.now(UTC) + timedelta(days=float(rng.normal(0, 4000)))
        return moment.isoformat(timespec="milliseconds")

    monkeypatch.setattr(store, "now", anytime)
    run = tmp_path / "run"
    for words in (STEPS[0], ["show", "RUN"]):
        code, said = gemkit(words, run)
        assert code == 0, said
    assert trials(run) == trials(undisturbed)
