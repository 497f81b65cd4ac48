"""The command line in this process, and a run made by hand, without training."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_run
import visitor
from gemkit.app import cli
from gemkit.store import Run
from networks import random_cell


@pytest.fixture
def untrained_run(tmp_path: Path, seed: int) -> Path:
    """A run with four trials, of which the last failed."""
    rng = np.random.default_rng(seed)
    cells = [random_cell(rng, nodes, "concat", 0.2) for nodes in (3, 8, 15, 30)]
    trials = [
        replace(trial, accuracy=0.9 + 0.01 * trial.index, seconds=1.0, round=trial.index // 2)
        for trial in page_run.trials_of(cells, rng, width=4)
    ]
    failure = "the loss was not finite in epoch 1"
    trials[3] = replace(trials[3], state="failed", accuracy=None, error=failure)
    path = tmp_path / "made"
    page_run.with_trials(path, trials).close()
    return path


@pytest.fixture
def made_run(untrained_run: Path) -> Path:
    """The run with one trained model, which has no ONNX file."""
    with Run.open(untrained_run, write=True) as run:
        run.put(page_run.model_of(run.trials()[2], seed=2, epochs=1))
    return untrained_run


@pytest.fixture
def gemkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process and in an empty folder: code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        out, errors = capfd.readouterr()
        return int(ended.value.code or 0), out, errors

    return run


@pytest.fixture(scope="module")
def start_chromium() -> Iterator[Callable[..., Any]]:
    """Start a browser with more arguments."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        yield lambda *more: started.chromium.launch(
            executable_path=visitor.CHROMIUM, args=["--no-sandbox", *more]
        )


@pytest.fixture(scope="module")
def chromium(start_chromium: Callable[..., Any]) -> Iterator[Any]:
    opened = start_chromium()
    yield opened
    opened.close()
