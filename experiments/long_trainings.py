"""Trainings to their end, side by side on one GPU: deep cells, the proxy's truth, comparison.

    python experiments/long_trainings.py --images cifar10_jpeg.npz [--rounds truth,levers,ten]
        [--minutes 8] [--beside 24] [--device cuda] [--out results/long_trainings.json]

Images: CIFAR-10, its training part alone except where a round says so. `recipe` is `full` with its
own number of epochs. Every training is one entry of the results, written as it ends; a run that was
stopped goes on where it was, and `--minutes` stops it.

- `truth`: 24 pairs of a random cell (1 to 30 nodes, both aggregations) and a skeleton of the table,
  drawn by seed before any training, with hand-made cells and known networks, at 5 M MACs; 20,000
  images, judged on 10,000 others.
- `levers`: what MobileNetV3-small has and the space has not, on hand-made cells; the same images.
- `forms`: deep random cells in the forms of `deep_cells.py`; the same images.
- `proxy`: the same pairs as the search tries them: 3,750 of these images for some epochs.
- `ten`: at 10 M MACs the best pair of `truth`, the best cell of at least 20 nodes of `forms`, a
  hand-made cell and known networks; 45,000 images. What is best is chosen on 5,000 others; the
  test images are looked at once, at the end. The weights are kept beside the results.

A machine without package index needs fvcore, iopath, yacs and termcolor as wheels, and msgspec and
platformdirs. A training is only begun where the time left suffices for one, by those that ended.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deep_cells
import numpy as np
import results_page
import torch
from deep_cells import Form, Frame
from scipy import stats
from torch import nn

from gemkit import data
from gemkit.app import formatting
from gemkit.architecture import Architecture
from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.cell import Cell, CellArrays
from gemkit.cost import count_with_fvcore, largest_widths
from gemkit.files import read_json, write_bytes, write_json
from gemkit.machine import describe_machine, versions
from gemkit.network import build
from gemkit.recipe import RECIPES
from gemkit.search.hand_made import hand_made
from gemkit.search.sampling import random_cells
from gemkit.skeletons import skeletons_for
from gemkit.train import Progress, TrainingFailed, train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "long_trainings.json"
SHAPE, CLASSES = (3, 32, 32), 10
MACS, MACS_OF_TEN = 5_000_000, 10_000_000
JUDGED, TRAINED = 10_000, 20_000
EPOCHS = 30
JUDGED_OF_TEN = 5_000
NODES = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 30)
KNOWN = ("resnet20", "resnet14", "mobilenet_v3_small", "shufflenet_v2")
KNOWN_OF_TEN = (*KNOWN, "mobilenet_v2", "darts_v2", "pc_darts", "p_darts")
LIGHT = Frame(stem=((3, 2, 1.0),))
LARGE = 20


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        network: `pair N`, `cell NAME` (a hand-made one, light stem), `form N` (of `FORMS`),
            `lever N` (of `LEVERS`) or `known NAME`.
        round: the round it belongs to.
        epochs: over the round's images.
    """

    round: str
    network: str
    epochs: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.round}: {self.network}, {self.epochs} epochs, seed {self.seed}"


RESIDUAL = Form(residual=True, mean=True)
STREAM = Form(residual=True, mean=True, pre=True, identity=True, zero=True)
WIRED = Form(pre=True, inner=False, weighted=True, identity=True)  # RandWire's nodes
SUMS = (Form(), Form(identity=True), RESIDUAL, replace(RESIDUAL, inner=False), WIRED, STREAM)
CONCATS = (
    Form(),
    Form(share=0.5),
    Form(share=0.5, inner=False),
    Form(residual=True, identity=True),
)
SKELETONS = skeletons_for(SHAPE, CLASSES)
LEVERS = tuple(
    replace(job, macs=MACS, epochs=deep_cells.RECIPE.epochs, trained=deep_cells.TRAINED)
    for job in deep_cells.rounds()["levers"]
    if not job.cell.startswith(("known:", "resnet"))
)
FORMS = tuple(
    deep_cells.Job(cell, form, LIGHT, macs=MACS)
    for number in (0, 1, 2)
    for forms, prefix in ((SUMS, "sum:"), (CONCATS, ""))
    for form in forms
    for cell in (f"{prefix}random{(24, 20, 30)[number]}.{number}",)
)


def pair(number: int, macs: int = MACS) -> Architecture:
    """The pair of a random cell and a skeleton with this number, as wide as the MACs allow."""
    nodes = NODES[number % len(NODES)]
    cell = random_cells(np.random.default_rng([7, number]), 1, nodes, smallest=nodes).cell(0)
    aggregation = "concat" if number % 4 in (0, 3) else "sum"
    skeleton = SKELETONS[number % 3]
    return widest(Cell(cell.operations, cell.edges, aggregation), skeleton, macs)


def about(network: str) -> str:
    """What a network's name does not say."""
    if network.startswith(("form", "lever")):
        return _described(network).name
    if not network.startswith("pair"):
        return ""
    one = pair(int(network.removeprefix("pair ")))
    cell = one.cells[0]
    stem = "".join(map(str, one.skeleton.stem_strides))
    nodes = formatting.number(len(cell.operations) - 1, "node")
    return f"{nodes}, {cell.aggregation}, stem of strides {stem}, width {one.width}"


def _described(network: str) -> deep_cells.Job:
    kind, _, number = network.partition(" ")
    return (FORMS if kind == "form" else LEVERS)[int(number)]


def widest(cell: Cell, skeleton: Any, macs: int) -> Architecture:
    (width,) = largest_widths(CellArrays.from_cells([cell]), skeleton, Budget(macs=macs))
    return Architecture((cell,), skeleton, int(width))


def network_of(job: Job) -> tuple[nn.Module, int, int]:
    """The network, freshly initialised from the job's seed, its MACs and params."""
    macs = MACS_OF_TEN if job.round == "ten" else MACS
    kind, _, name = job.network.partition(" ")
    if kind in ("form", "lever"):
        form = replace(_described(job.network), macs=macs, seed=job.seed)
        network, _, macs, params = deep_cells.widest(form)
        return network, macs, params
    if kind == "known":
        torch.manual_seed(job.seed)
        network = baseline(name, SHAPE, CLASSES, max_macs=macs)
        return network, *count_with_fvcore(network, SHAPE)
    cell = hand_made(nodes=30)[name] if kind == "cell" else None
    architecture = pair(int(name), macs) if cell is None else widest(cell, SKELETONS[1], macs)
    torch.manual_seed(job.seed)
    network = build(architecture)
    return network, *count_with_fvcore(network, SHAPE)


def rounds(results: dict[str, Any]) -> dict[str, Callable[[], list[Job]]]:
    """The jobs of each round, in the order in which they are worth doing."""
    pairs = [f"pair {number}" for number in range(len(NODES))]
    others = [*(f"cell {name}" for name in hand_made()), *(f"known {name}" for name in KNOWN)]

    def forms() -> list[Job]:
        return [Job("forms", f"form {number}", EPOCHS) for number in range(len(FORMS))]

    def ten() -> list[Job]:
        chosen = [
            best(results, "truth", lambda name: name.startswith("pair")),
            best(results, "forms", lambda _: True),
            best(results, "levers", lambda _: True),
        ]
        names = ["cell single", *chosen, *(f"known {name}" for name in KNOWN_OF_TEN), "cell star"]
        return [Job("ten", name, 60) for name in names if name]

    return {
        "truth": lambda: [Job("truth", name, EPOCHS) for name in (*others, *pairs)],
        "levers": lambda: [
            Job("levers", f"lever {number}", EPOCHS) for number in range(len(LEVERS))
        ],
        "forms": forms,
        "ten": ten,
        "proxy": lambda: [
            Job("proxy", name, epochs) for epochs in (3, 9, 27) for name in (*others, *pairs)
        ],
    }


def best(results: dict[str, Any], round: str, wanted: Callable[[str], bool]) -> str:
    """The network of a round that was judged best; none where the round did not run."""
    found = [
        one
        for one in results["trainings"]
        if one["round"] == round and wanted(one["network"]) and one["accuracy"]
    ]
    return str(max(found, key=lambda one: one["accuracy"])["network"]) if found else ""


def correlation(results: dict[str, Any]) -> list[dict[str, Any]]:
    """How the proxies' order of the pairs agrees with that of the long trainings.

    Spearman's rank correlation over all pairs, over those that end in the better half, and the
    partial one given width and number of nodes; the interval is a bootstrap's over pairs (95 %).
    """
    ends = _accuracies(results, "truth", EPOCHS)
    lengths = sorted({one["recipe"]["epochs"] for one in _of_pairs(results, "proxy")})
    rows = []
    for epochs in lengths:
        short = _accuracies(results, "proxy", epochs)
        names = [name for name in ends if name in short]
        if len(names) < len(NODES):
            continue
        end, trial = (np.array([found[name] for name in names]) for found in (ends, short))
        pairs = [pair(int(name.removeprefix("pair "))) for name in names]
        known = np.array([[one.width, len(one.cells[0].operations)] for one in pairs])
        half = np.argsort(-end)[: len(names) // 2]
        rng = np.random.default_rng(0)
        draws = [rng.integers(0, len(names), len(names)) for _ in range(2000)]
        drawn = [stats.spearmanr(end[rows], trial[rows])[0] for rows in draws]
        low, high = np.quantile(drawn, (0.025, 0.975))
        rows.append({
            "epochs": epochs,
            "pairs": len(names),
            "spearman": float(stats.spearmanr(end, trial)[0]),
            "interval": [float(low), float(high)],
            "better_half": float(stats.spearmanr(end[half], trial[half])[0]),
            "partial": _partial(end, trial, known),
        })  # fmt: skip
    return rows


def _of_pairs(results: dict[str, Any], round: str) -> list[dict[str, Any]]:
    return [
        one
        for one in results["trainings"]
        if one["round"] == round and one["network"].startswith("pair")
    ]


def _accuracies(results: dict[str, Any], round: str, epochs: int) -> dict[str, float]:
    found = _of_pairs(results, round)
    return {one["network"]: one["accuracy"] for one in found if one["recipe"]["epochs"] == epochs}


def _partial(end: Any, trial: Any, known: Any) -> float:
    """Correlation of the ranks' residuals after a linear fit on the ranks of what is known."""
    given = np.column_stack([np.ones(len(end)), *(stats.rankdata(column) for column in known.T)])

    def left(values: Any) -> Any:
        ranks = stats.rankdata(values)
        return ranks - given @ np.linalg.lstsq(given, ranks, rcond=None)[0]

    return float(np.corrcoef(left(end), left(trial))[0, 1])


class Stop(Exception):
    """The time is up."""


class Images:
    """The images of all rounds, read once."""

    def __init__(self, path: Path) -> None:
        self.dataset = data.load(f"npz:{path}")
        self.order = np.random.default_rng(0).permutation(len(self.dataset.y_train))
        self.x = np.asarray(self.dataset.x_train)
        self.y = self.dataset.y_train
        self.x_test = np.asarray(self.dataset.x_test)

    def of(self, round: str) -> tuple[Any, Any, Any, Any]:
        """Images and labels to train on and to judge on; of `ten` the test images come last."""
        if round == "ten":
            judged, trained = self.order[:JUDGED_OF_TEN], self.order[JUDGED_OF_TEN:]
            x = np.concatenate([self.x[judged], self.x_test])
            y = np.concatenate([self.y[judged], self.dataset.y_test])
            return self.x[trained], self.y[trained], x, y
        judged = self.order[:JUDGED]
        trained = self.order[JUDGED : JUDGED + (3750 if round == "proxy" else TRAINED)]
        return self.x[trained], self.y[trained], self.x[judged], self.y[judged]


def carry_out(
    job: Job, images: Images, device: str, batch: int, until: float, building: threading.Lock
) -> tuple[dict[str, Any], nn.Module]:
    """Train and judge."""
    with building:  # PyTorch's random numbers are shared
        network, macs, params = network_of(job)
    x, y, x_judged, y_judged = images.of(job.round)
    recipe = RECIPES["proxy"] if job.round == "proxy" else RECIPES["full"].changed(None, batch)
    began = time.perf_counter()

    def follow(_: Progress) -> None:
        if time.monotonic() > until:
            raise Stop

    found: dict[str, Any] = {
        "name": job.name,
        "round": job.round,
        "network": job.network,
        "about": about(job.network),
        "macs": macs,
        "params": params,
        "recipe": recipe.changed(job.epochs).to_json(),
        "device": device,
    }
    try:
        trained = train(
            network,
            x,
            y,
            x_judged,
            y_judged,
            recipe=recipe.changed(job.epochs),
            mean=images.dataset.mean,
            std=images.dataset.std,
            seed=job.seed,
            device=device,
            progress=follow,
        )
    except TrainingFailed as failure:
        return {**found, "accuracy": None, "error": str(failure)}, network
    right = trained.outputs.argmax(1) == y_judged
    judged = JUDGED_OF_TEN if job.round == "ten" else len(right)
    found |= {
        "accuracy": float(right[:judged].mean()),
        "loss": round(trained.curve[-1]["loss"], 4),
        "seconds": round(time.perf_counter() - began, 1),
    }
    if job.round == "proxy":
        found["accuracy_of_a_trial"] = float(right[:1250].mean())
    if job.round == "ten":
        found["test_accuracy"] = float(right[judged:].mean())
    return found, network


def save(network: nn.Module, path: Path) -> None:
    """The weights in half precision."""
    from safetensors.torch import save as as_bytes

    state = network.state_dict()
    write_bytes(
        path,
        as_bytes({
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in state.items()
        }),
    )  # fmt: skip


def finish(results: dict[str, Any], path: Path) -> None:
    """Write the results and, where they are the committed ones, the page."""
    results["correlation"] = correlation(results)
    write_json(path, results)
    if path == RESULTS:
        results_page.write()


def todo(jobs: list[Job], results: dict[str, Any]) -> Iterator[Job]:
    """What is not done yet."""
    done = {one["name"] for one in results["trainings"]}
    yield from (job for job in jobs if job.name not in done)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=deep_cells.IMAGES)
    parser.add_argument("--rounds", default="truth,levers,ten,forms,proxy")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--beside", type=int, default=24, help="trainings at the same time")
    parser.add_argument("--batch", type=int, default=256, help="images a step")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--list", action="store_true", help="only say what would be trained")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--epochs", type=int, help="for a trial of the script: so many everywhere")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    results = read_json(options.out) if options.out.exists() else {"trainings": []}
    if options.list:
        for name in options.rounds.split(","):
            for job in todo(rounds(results)[name](), results):
                print(job.name, *network_of(job)[1:], flush=True)
        return 0
    images = Images(options.images)
    results = {
        "task": f"{TRAINED:,} training images of CIFAR-10 (JPEG q75 copy), judged on {JUDGED:,} "
        f"others; recipe `full` for {EPOCHS} epochs at batch {options.batch}, the widest networks "
        f"within {MACS:,} MACs",
        "machine": describe_machine(),
        "versions": versions(),
        "beside": options.beside,
        "batch": options.batch,
        **results,
    }
    print(f"images after {time.monotonic() - until + 60 * options.minutes:.0f} s", flush=True)
    building, writing = threading.Lock(), threading.Lock()
    spent: list[float] = []  # seconds for every thousand images of a training

    def work(job: Job) -> None:
        length = job.epochs * len(images.of(job.round)[1]) / 1000
        if spent and time.monotonic() + float(np.median(spent[-16:])) * length > until:
            return
        try:
            found, network = carry_out(job, images, options.device, options.batch, until, building)
        except Stop:
            return
        except RuntimeError as error:  # of one network; the others go on
            print(f"{job.name}: {error}", flush=True)
            return
        if job.round == "ten":
            save(network, options.out.parent / f"{job.network.replace(' ', '-')}.safetensors")
        with writing:
            spent.append(found.get("seconds", 0.0) / length)
            results["trainings"].append(found)
            finish(results, options.out)
        print(
            f"{found['accuracy']} {found.get('seconds')} s {job.name} {found['about']}", flush=True
        )

    planned = rounds(results)
    jobs = [job for name in options.rounds.split(",") for job in todo(planned[name](), results)]
    if options.epochs:
        jobs = [replace(job, epochs=options.epochs) for job in jobs]
    with ThreadPoolExecutor(options.beside) as threads:
        list(threads.map(work, jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
