"""Live searches beside controls: what the search is worth, the search being the unit of repetition.

    OMP_NUM_THREADS=1 python experiments/search_live.py --data cifar10 --max-macs 3M --images 10000
    python experiments/search_live.py --data cifar10 --max-macs 10M --recipe full --device cuda

For every seed each method of METHODS gets `--trials` trials on the search's own proxy, as `gemkit
search` makes them; the best of them is trained as `--recipe` and `--epochs` say, from the seed, and
judged on the hold-out of the training images, never on test images. "known" stands for the best of
the known networks of `gemkit run` after the same trial, "known:NAME" for one without a trial.
Reported: mean and 95 % interval over the
searches (Student's t), and by how much NASGEM is better seed by seed, also with Bonferroni's
correction for the number of methods.

Everything is kept in `--out`, the searches as runs that `gemkit show` reads: the same command goes
on after an interruption, with more seeds or methods too.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import t
from torch import nn

from gemkit.app import formatting
from gemkit.app.comparison import mean_interval
from gemkit.app.runs import network_of, short_name
from gemkit.app.steps.known import NAMES, trial
from gemkit.app.steps.search import candidates_of_a_round
from gemkit.architecture import Architecture
from gemkit.baselines import BASELINES, baseline
from gemkit.budget import Budget, parse_count
from gemkit.cell import CellArrays
from gemkit.data import final_split, limited, load, proxy_split
from gemkit.errors import UserError
from gemkit.files import write_json
from gemkit.identity import absolute
from gemkit.machine import describe_machine, usable_cores, versions
from gemkit.network import build
from gemkit.recipe import RECIPES
from gemkit.records import Limits
from gemkit.search import encoder, loop
from gemkit.search.cell_space import CellSpace
from gemkit.search.hand_made import hand_made
from gemkit.search.interfaces import Candidates, Graphs, History, Space, Strategy
from gemkit.search.kept import Kept
from gemkit.search.nasgem import Nasgem
from gemkit.search.predictor import GraphPredictor
from gemkit.search.strategies import strategy
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.skeletons import skeletons_for
from gemkit.store import Run
from gemkit.train import train
from gemkit.workers import Workers, threads_per_worker

ROOT = Path(__file__).resolve().parents[1]
OURS, KNOWN = "nasgem", "known"
DRAWN = 50
"""Candidates for every trial of "widest"."""


@dataclass(frozen=True)
class Task:
    """What all methods have in common."""

    data: str
    images: int | None
    max_macs: int
    trials: int
    proxy_epochs: int
    recipe: str
    epochs: int
    device: str


# ------------------------------------------------------------------------------ the methods


def by_hand(space: Space, history: History, count: int, rng: np.random.Generator) -> Candidates:
    """Cells that a person would write down, each in every skeleton."""
    assert isinstance(space, CellSpace)
    cells = list(hand_made(space.aggregation, space.nodes).values())
    places = np.repeat(np.arange(len(space.skeletons)), len(cells))
    packed = CellArrays.from_cells(cells * len(space.skeletons))
    return history.fresh(space.fitting(packed, places))[:count]


def widest(space: Space, history: History, count: int, rng: np.random.Generator) -> Candidates:
    """The widest networks of a random sample."""
    drawn = history.fresh(space.sample(rng, DRAWN * count))
    return drawn[np.argsort(-drawn.payload.widths, kind="stable")[:count]]


def embedding(graphs: Graphs) -> np.ndarray[Any, Any]:
    return encoder.embed(encoder.default_encoder(), graphs.labels, graphs.adjacency)


def _gaussian(*groups: str) -> Callable[..., Strategy]:
    """Bayesian optimisation on features that need no encoder, beside width, pixels and depth."""

    def made(**options: Any) -> Strategy:
        return Nasgem(GraphPredictor(groups, roles=False), embedding=None, **options)

    return made


def _named(name: str) -> Callable[..., Strategy]:
    return lambda **options: strategy(name, embedding, roles=False, **options)


METHODS: dict[str, tuple[Callable[..., Strategy], bool]] = {
    OURS: (_named("nasgem"), True),
    "nasgem, no hand-made cells": (_named("nasgem"), False),
    "random": (lambda **_: strategy("random"), False),
    "by hand": (lambda **_: by_hand, False),
    "widest": (lambda **_: widest, False),
    "size": (_gaussian("counts"), False),
    "WL features": (_gaussian("wl"), False),
    "flat": (_gaussian("flat"), False),
    "walks": (_gaussian("walks"), False),
}
"""How each proposes cells, and whether its first round are hand-made cells, as `gemkit search`
begins. "size" learns from numbers of nodes, "WL features" as NASBOWL does, "flat" from adjacency
and operations, "walks" from counts of short walks, which no numbering of the nodes changes."""


# ------------------------------------------------------------------------- searches, trainings


def searched(task: Task, method: str, seed: int, folder: Path, workers: int) -> dict[str, Any]:
    """The best network of one search."""
    dataset = load(task.data)
    preset, *others = skeletons_for(dataset.input_shape, dataset.classes)
    budget = Budget(macs=task.max_macs)
    space = CellSpace(preset, budget, alternatives=tuple(others))
    make, begins_by_hand = METHODS[method]
    images = len(proxy_split(dataset, seed).y_train) * task.proxy_epochs
    options = candidates_of_a_round("nasgem", budget, images, task.device == "cuda")
    propose = make(initial=max(3, task.trials // 3), **options)
    plan = loop.Plan(
        trials=task.trials,
        per_round=max(2, task.trials // 8),
        epochs=task.proxy_epochs,
        in_rounds=True,  # so that the number of workers decides nothing
        hand_made=task.trials // 4 if begins_by_hand else 0,
    )
    proxy = ProxyTask(
        absolute(task.data), RECIPES["proxy"], seed, task.device, threads_per_worker(workers)
    )
    config = {"budget": budget.to_json(), "seed": seed, "data": task.data, "trials": task.trials}
    config |= {"strategy": method}
    with Run.start(folder, config, resume=True) as run:
        run.set_setting("skeleton", preset)
        run.set_setting("alternatives", others)
        evaluate = partial(run_trial, proxy)
        best = loop.search(run, space, propose, evaluate, plan, Workers.local(workers))[0]
        done = [one for one in run.trials() if one.accuracy is not None]
        network = network_of(run, best)
    return {
        "architecture": network.to_json(),
        "proxy": best.accuracy,
        "mean_of_trials": float(np.mean([one.accuracy for one in done])),
        "trials": len(done),
        "macs": best.macs,
        "params": best.params,
        "nodes": best.nodes,
        "seconds_of_trials": float(sum(one.seconds or 0.0 for one in done)),
    }


def _is_named(method: str) -> bool:
    return method.startswith(f"{KNOWN}:")


def known(task: Task, seed: int) -> dict[str, Any]:
    """The best of the known networks after a trial each."""
    dataset = load(task.data)
    recipe = RECIPES["proxy"].changed(task.proxy_epochs)
    limits = Limits(task.max_macs, any_width=False)
    reached: dict[str, float] = {}
    for name in NAMES:
        try:
            accuracy = trial(name, dataset, limits, recipe, seed, task.device)
        except UserError:
            continue
        if accuracy is not None:
            reached[name] = accuracy
    best = max(reached, key=lambda name: reached[name])
    return {"network": best, "proxy": reached[best], "tried": reached}


def trained_fully(task: Task, found: dict[str, Any], seed: int) -> dict[str, float]:
    """Accuracy on the hold-out of all training images, which no trial saw, after the final
    training on so many of the others as the task says."""
    dataset = load(task.data)
    split = final_split(dataset)
    dataset = limited(
        replace(
            dataset,
            x_train=split.x_train,
            y_train=split.y_train,
            x_validation=split.x_validation,
            y_validation=split.y_validation,
        ),
        task.images,
    )
    torch.manual_seed(seed)
    if "architecture" in found:
        network: nn.Module = build(Architecture.from_json(found["architecture"]))
    else:
        network = baseline(
            found["network"], dataset.input_shape, dataset.classes, max_macs=task.max_macs
        )
    trained = train(
        network,
        dataset.x_train,
        dataset.y_train,
        split.x_validation,
        split.y_validation,
        recipe=RECIPES[task.recipe].changed(task.epochs),
        mean=dataset.mean,
        std=dataset.std,
        seed=seed,
        device=task.device,
    )
    return {"accuracy": trained.accuracy, "seconds": trained.seconds}


# -------------------------------------------------------------------------------- the report


def difference(values: Sequence[float], compared: int) -> dict[str, Any]:
    """Mean of differences with its 95 % interval, alone and among `compared` of them."""
    mean, low, high = mean_interval(values)
    told: dict[str, Any] = {"mean": mean, "interval": None, "corrected": None}
    if low is not None and high is not None:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        half = float(t.ppf(1 - 0.025 / max(compared, 1), len(values) - 1)) * error
        told |= {"interval": [low, high], "corrected": [mean - half, mean + half]}
    return told


def report(found: dict[str, Any], methods: Sequence[str], seeds: int) -> dict[str, Any]:
    """Every method's mean over the searches, and what NASGEM is better by."""

    def finals(method: str) -> list[float]:
        return [found[f"{method}/{seed}/final"]["accuracy"] for seed in range(seeds)]

    def proxies(method: str) -> list[float]:
        return [found[f"{method}/{seed}"]["proxy"] for seed in range(seeds)]

    told: dict[str, Any] = {}
    others = len(methods) - (OURS in methods)
    for method in methods:
        mean, low, high = mean_interval(finals(method))
        told[method] = {
            "accuracy": mean,
            "interval": None if low is None else [low, high],
            "accuracies": finals(method),
            "proxy": None if _is_named(method) else float(np.mean(proxies(method))),
            "networks": [found[f"{method}/{seed}"].get("network") for seed in range(seeds)]
            if method.startswith(KNOWN)
            else [found[f"{method}/{seed}"]["nodes"] for seed in range(seeds)],
        }
        if OURS in methods and method != OURS:
            pairs = zip(finals(OURS), finals(method), strict=True)
            told[method]["nasgem_better_by"] = difference([a - b for a, b in pairs], others)
    return told


def main() -> None:
    names = (*METHODS, KNOWN, *(f"{KNOWN}:{name}" for name in BASELINES))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, help="final trainings use so many (default: all)")
    parser.add_argument("--max-macs", type=parse_count, default=3_000_000)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument(
        "--methods", nargs="+", choices=names, default=names[: len(METHODS) + 1], metavar="NAME"
    )
    parser.add_argument("--proxy-epochs", type=int, default=RECIPES["proxy"].epochs)
    parser.add_argument("--recipe", choices=("standard", "full"), default="standard")
    parser.add_argument("--epochs", type=int, help="of the final trainings (default: the recipe's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, help="default: build/search_live/DATA-MACS")
    given = parser.parse_args()
    task = Task(
        given.data,
        given.images,
        given.max_macs,
        given.trials,
        given.proxy_epochs,
        given.recipe,
        given.epochs or RECIPES[given.recipe].epochs,
        given.device,
    )
    place = f"{short_name(task.data)}-{task.max_macs}"
    out = given.out or ROOT / "build" / "search_live" / place
    settings = {**asdict(task), "data": short_name(task.data)}
    kept = Kept(out / "kept.json", settings)
    console = Console(highlight=False, soft_wrap=True, width=140)

    def said(what: str, done: int, total: int) -> None:
        shown = kept.found[what]
        value = shown.get("accuracy", shown.get("proxy"))
        console.print(f"{done}/{total} {what}: {100 * value:.2f} %")

    # Seed by seed, so that after each there is a whole comparison.
    for seeds in range(1, given.searches + 1):
        seed = seeds - 1
        searches: list[Any] = []
        for method in given.methods:
            if _is_named(method):
                name = method.removeprefix(f"{KNOWN}:")
                kept.found.setdefault(f"{method}/{seed}", {"network": name})
            elif method == KNOWN:
                searches.append((f"{method}/{seed}", known, (task, seed)))
            else:
                folder = out / f"{method.replace(', ', '-').replace(' ', '-')}-{seed}"
                rest = (task, method, seed, folder, given.workers)
                searches.append((f"{method}/{seed}", searched, rest))
        kept.complete(searches, 1, said)  # a search uses all workers itself
        trainings = [
            (f"{name}/final", trained_fully, (task, kept.found[name], seed))
            for name in (f"{method}/{seed}" for method in given.methods)
        ]
        kept.complete(trainings, given.workers, said)
        told = {
            "task": settings,
            "searches": seeds,
            "methods": report(kept.found, given.methods, seeds),
            "machine": describe_machine(),
            "versions": versions(),
        }
        write_json(out / "search_live.json", told)
    for method, one in told["methods"].items():
        apart = one.get("nasgem_better_by")
        text = f"{method:28} {100 * one['accuracy']:.2f} %"
        if apart is not None:
            text += f"  nasgem {100 * apart['mean']:+.2f} points"
            if apart["interval"] is not None:
                low, high = (100 * end for end in apart["interval"])
                least, most = (100 * end for end in apart["corrected"])
                text += f" ({low:+.2f} to {high:+.2f}; corrected {least:+.2f} to {most:+.2f})"
        console.print(text)
    held = formatting.number(given.searches, "search", "searches")
    console.print(f"{out / 'search_live.json'} holds {held} a method")


if __name__ == "__main__":
    main()
