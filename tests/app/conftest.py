"""The command line in this process, and a run made by hand, without training."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import visitor
from gemkit.app import cli
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.cost import cost
from gemkit.records import DataInfo, Model, Trial
from gemkit.store import Run


def _random_cell(rng: np.random.Generator, nodes: int, density: float) -> Cell:
    """A random cell in which the input reaches every node."""
    edges = [
        (source, target)
        for target in range(1, nodes + 1)
        for source in range(target)
        if rng.random() < density
    ]
    reached = {target for _, target in edges}
    edges += [(0, target) for target in range(1, nodes + 1) if target not in reached]
    names = ("conv1x1", "sep3x3")
    return Cell(("input", *(names[rng.integers(2)] for _ in range(nodes))), tuple(edges))


@pytest.fixture
def random_cell() -> Callable[[np.random.Generator, int, float], Cell]:
    """(generator, nodes, density) -> a random cell."""
    return _random_cell


@pytest.fixture
def made_run(tmp_path: Path, seed: int) -> Path:
    """A run with four trials (one failed) and one trained model without an ONNX file."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "made"
    skeleton = skeleton_for((1, 8, 8), 10)
    config = {
        "data": "digits",
        "budget": Budget(macs=3_000_000).to_json(),
        "seed": 1,
        "strategy": "random",
    }
    with Run.create(path, config) as run:
        run.set_setting("skeleton", skeleton)
        run.set_setting("data", DataInfo("digits", train=1437, test=360))
        trials = []
        for index, nodes in enumerate((3, 8, 15, 30)):
            cell = _random_cell(rng, nodes, 0.2)
            price = cost(Architecture((cell,), skeleton, 4))
            trials.append(
                Trial(
                    index=index,
                    round=index // 2,
                    key=cell.key,
                    cell=cell,
                    width=4,
                    macs=price.macs,
                    params=price.params,
                    peak_memory_bytes=price.peak_memory_bytes,
                    seed=index,
                    epochs=1,
                )
            )
        run.add_trials(trials)
        for index in range(3):
            run.trial_done(index, accuracy=0.9 + 0.01 * index, seconds=1.0)
        run.trial_failed(3, "the loss was not finite in epoch 1", seconds=1.0)
        best = trials[2]
        run.put(
            Model(
                id=best.id,
                cell=best.cell,
                width=4,
                macs=best.macs,
                params=best.params,
                peak_memory_bytes=best.peak_memory_bytes,
                accuracy=0.95,
                seed=2,
                epochs=1,
                state="done",
            )
        )
    return path


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
