"""`gemkit compare` through the command line, on a few digits; killed and gone on with."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gemkit.app.comparison import mean_interval
from gemkit.app.steps import compare, compare_entrants
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.cost import cost
from gemkit.data import limited, load
from gemkit.errors import UserError
from gemkit.store import Run

WORDS = [
    "compare", "--max-macs", "900k", "--seeds", "2", "--epochs", "1", "--images", "120",
    "--workers", "1", "--networks", "found,random,mobilenet_v3_small",
]  # fmt: skip


@pytest.fixture
def words(made_run: Path, tmp_path: Path) -> list[str]:
    return [*WORDS, "--run", str(made_run), "--out", str(tmp_path / "compared")]


def _rank_the_largest_first(made_run: Path) -> None:
    """Random cells of thirty nodes must fit what the found network takes."""
    with Run.open(made_run, write=True) as run:
        run.trial_done(3, accuracy=0.9, seconds=1.0)
        run.set_setting("ranking", [run.trials()[3].id])


def test_networks_are_compared_and_kept(
    words: list[str], made_run: Path, tmp_path: Path, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    _rank_the_largest_first(made_run)
    code, out, _ = gemkit(*words)
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[-1] == f"next: gemkit train {made_run}"
    estimate = next(line for line in lines if "to do" in line)
    assert "about" in estimate
    assert lines.index(estimate) < lines.index(next(line for line in lines if "@" in line))

    folder = tmp_path / "compared"
    result = json.loads((folder / "compare.json").read_text())
    entries = {entry["id"]: entry for entry in result["networks"]}
    assert list(entries) == ["found", "random", "mobilenet_v3_small"]
    assert (result["train"], result["test"], result["seeds"]) == (120, 360, [0, 1])
    with Run.open(folder) as run:
        stored = {row.id: row.accuracy for row in run.compared()}
    assert len(stored) == 6
    for name, entry in entries.items():
        assert entry["macs"] <= 900_000
        own = [stored[f"{name}@{seed}"] for seed in (0, 1)]
        assert list(entry["accuracies"].values()) == own
        assert entry["accuracy"] == pytest.approx(sum(own) / 2)
        assert entry["latency_ms"]["p50"] > 0
        assert entry["peak_memory_bytes"] > 0
        assert (folder / entry["onnx"]).is_file()
    assert entries["random"]["macs"] <= entries["found"]["macs"]
    cells = [cell["cells"][0]["operations"] for cell in entries["random"]["cells"]]
    assert cells[0] != cells[1]
    assert {len(cell) for cell in cells} == {31}
    better = entries["mobilenet_v3_small"]["found_better_by"]
    differences = [stored[f"found@{s}"] - stored[f"mobilenet_v3_small@{s}"] for s in (0, 1)]
    assert better["mean"] == pytest.approx(np.mean(differences))
    report = (folder / "report.md").read_text()
    for picture in ("macs", "params", "latency_ms"):
        assert f"figures/{picture}.png" in report
        assert (folder / "figures" / f"{picture}.png").is_file()

    code, out, _ = gemkit("show", str(folder), "found@0")
    assert code == 0
    assert "a training of found" in out

    # The same command does nothing again; one more seed trains only that.
    code, out, _ = gemkit(*words)
    assert "everything is trained already" in out
    again = words.copy()
    again[again.index("--seeds") + 1] = "3"
    code, out, _ = gemkit(*again, "--json")
    assert code == 0
    assert json.loads(out)["seeds"] == [0, 1, 2]
    with Run.open(folder) as run:
        now = {row.id: row.accuracy for row in run.compared()}
    assert len(now) == 9
    assert stored.items() <= now.items()

    # Another configuration is refused.
    again[again.index("--epochs") + 1] = "2"
    code, _, err = gemkit(*again)
    assert code == 2
    assert "begun with another configuration" in err


def test_a_comparison_keeps_to_the_networks_it_began_with(
    words: list[str], made_run: Path, tmp_path: Path, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    _rank_the_largest_first(made_run)
    words[words.index("--networks") + 1] = "found"
    words[words.index("--seeds") + 1] = "1"
    assert gemkit(*words)[0] == 0
    # The run goes on and ranks another network first.
    with Run.open(made_run, write=True) as run:
        run.set_setting("ranking", [run.trials()[0].id])
    words[words.index("--seeds") + 1] = "2"
    words[words.index("--networks") + 1] = "found,random"
    assert gemkit(*words)[0] == 0
    result = json.loads((tmp_path / "compared" / "compare.json").read_text())
    found, drawn = result["networks"]
    assert found["cells"][0] == found["cells"][1]
    # Alone, random cells are still of the found network's cost.
    words[words.index("--networks") + 1] = "random"
    assert gemkit(*words)[0] == 0
    result = json.loads((tmp_path / "compared" / "compare.json").read_text())
    assert result["networks"][0]["cells"] == drawn["cells"]
    # Cells drawn before there was a found network are others.
    words[words.index("--out") + 1] = str(tmp_path / "other")
    del words[words.index("--run") : words.index("--run") + 2]
    assert gemkit(*words)[0] == 0
    with Run.open(tmp_path / "other", write=True) as run:
        run.set_setting("found", found["cells"][0])
    code, _, err = gemkit(*words)
    assert code == 2
    assert "trained as another network" in err


def test_narrow_needs_what_it_is_compared_with(
    gemkit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = gemkit("compare", "--max-macs", "900k", "--networks", "narrow,random")
    assert code == 2
    assert "name found and one of them in --networks" in err


def test_a_killed_comparison_goes_on_to_the_same_figures(
    words: list[str],
    made_run: Path,
    tmp_path: Path,
    seed: int,
    gemkit: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Measuring has its test above; the child is killed before it.
    monkeypatch.setattr(compare, "measure", lambda *_: None)
    _rank_the_largest_first(made_run)
    words[words.index("--networks") + 1] = "found,random"
    folder = tmp_path / "compared"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "gemkit.app", *words], env=environment, stdout=subprocess.DEVNULL
    )
    wanted = int(np.random.default_rng(seed).integers(1, 4))
    while child.poll() is None:
        try:
            with Run.open(folder) as run:
                if len(run.compared()) >= wanted:
                    break
        except UserError:
            pass
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with Run.open(folder) as run:
        before = {row.id: (row.accuracy, row.seconds) for row in run.compared()}
    assert len(before) >= wanted
    assert gemkit(*words)[0] == 0
    with Run.open(folder) as run:
        after = {row.id: (row.accuracy, row.seconds) for row in run.compared()}
    assert before.items() <= after.items()  # what was done was not done again
    assert len(after) == 4
    undisturbed = words.copy()
    undisturbed[undisturbed.index("--out") + 1] = str(tmp_path / "undisturbed")
    assert gemkit(*undisturbed)[0] == 0
    with Run.open(tmp_path / "undisturbed") as run:
        expected = {row.id: row.accuracy for row in run.compared()}
    assert {name: accuracy for name, (accuracy, _) in after.items()} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--networks": "found,resnet"}, "unknown network 'resnet'"),
        ({"--images": "3"}, "3 training images of digits: use 20 (two a class) to 1437"),
        ({"--images": "1438"}, "use 20 (two a class) to 1437"),
        ({"--max-macs": "10"}, "no network fits the MACs budget of 10"),
        ({"--max-macs": "many"}, "--max-macs"),
        ({"--share": "0"}, "--share"),
        ({"--share": "1.5"}, "--share"),
        ({"--batch-size": "1"}, "--batch-size"),
        ({"--run": "nowhere"}, "nowhere"),
        ({"--data": "npz:missing.npz"}, "missing.npz does not exist"),
        ({"--max-macs": "20k"}, "more than --max-macs"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    changes: dict[str, str],
    message: str,
    words: list[str],
    tmp_path: Path,
    gemkit: Callable[..., tuple[int, str, str]],
) -> None:
    for option, value in changes.items():
        words += [option, value]
    code, out, err = gemkit(*words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not out
    assert not (tmp_path / "compared").exists()


def test_a_run_of_other_images_or_a_search_as_out_is_refused(
    words: list[str], made_run: Path, tmp_path: Path, gemkit: Callable[..., tuple[int, str, str]]
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "other.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 255, (40, 16, 16), dtype=np.uint8),
        y_train=np.arange(40) % 10,
        x_test=rng.integers(0, 255, (40, 16, 16), dtype=np.uint8),
        y_test=np.arange(40) % 10,
    )
    code, _, err = gemkit(*words, "--data", f"npz:{path}", "--images", "40")
    assert code == 2
    assert "was searched for 10 classes of (1, 8, 8)" in err
    code, _, err = gemkit(*words, "--out", str(made_run))
    assert code == 2
    assert "holds a search, no comparison" in err


def test_narrow_takes_its_share_of_the_smallest_differentiable_network(tmp_path: Path) -> None:
    digits = load("digits")
    skeleton = skeleton_for(digits.input_shape, digits.classes)
    found = Architecture((Cell(("input", "sep3x3", "conv1x1"), ((0, 1), (1, 2))),), skeleton, 40)
    run: Any = SimpleNamespace(seed=0, path=tmp_path, config={"share": 0.8})
    budget, console = Budget(macs=2_000_000), Console(quiet=True)

    def entrants(*names: str) -> dict[str, compare_entrants.Entrant]:
        seeds = dict.fromkeys(names, 2)
        made = compare_entrants.gather(run, seeds, digits, 2_000_000, budget, found, console)
        return {one.name: one for one in made}

    made = entrants("found", "narrow", "darts_v2", "pc_darts", "mobilenet_v3_small")
    least = min(made["darts_v2"].macs, made["pc_darts"].macs)
    narrow = made["narrow"]
    (network, again) = (job.architecture for job in narrow.jobs)
    assert network is not None
    assert network == again
    assert network.cells == found.cells
    assert cost(network).macs == narrow.macs <= 0.8 * least
    assert cost(replace(network, width=network.width + 1)).macs > 0.8 * least
    assert set(entrants("found", "narrow", "mobilenet_v3_small")) == {"found", "mobilenet_v3_small"}


def test_intervals_are_students(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=5).tolist()
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    half = 2.7764451051977987 * np.std(values, ddof=1) / math.sqrt(5)
    assert (low, high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    assert mean_interval([0.5]) == (0.5, None, None)


def test_random_cells_have_thirty_nodes_and_the_budget(seed: int) -> None:
    skeleton = skeleton_for((3, 32, 32), 10)
    first, again, other = (
        compare_entrants.random_network(skeleton, Budget(macs=3_000_000), number)
        for number in (seed, seed, seed + 1)
    )
    assert first == again
    assert first.cells != other.cells
    assert first.cells[0].pruned().nodes == 30


def test_some_images_of_every_class() -> None:
    digits = load("digits")
    some = limited(digits, 100)
    assert np.bincount(some.y_train).min() >= 9
    assert len(some.x_train) == 100
    assert some.x_test is digits.x_test
    assert limited(digits, None) is digits
    assert len(limited(digits, len(digits.y_train) - 1).y_train) == len(digits.y_train) - 1
    np.testing.assert_allclose(some.mean[0], some.x_train.mean() / 255)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
