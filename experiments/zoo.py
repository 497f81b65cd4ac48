"""Makes the networks that come with gemkit: searched, trained, judged by onnxruntime, packed.

    OMP_NUM_THREADS=1 python experiments/zoo.py [--only tiny] [--data SPEC] [--out runs/zoo]

On the CIFAR-10 JPEG copy. `tiny` is found by a full search over thirty-node cells; `small` and
`base` take the best cells of that search, as wide as their budgets allow, ranked anew by short
trainings at their own size. Each is then trained once on all 50,000 training images; the 5,000 test
images are seen once, at the end. Killed at any moment it goes on from the last trial or epoch. What
is packed already is left alone; --anew replaces it.

Expected on one free core (reckoned from short runs): tiny about 1.6 hours, small about 2 hours;
base about 6 hours, so it is made only when `--only base` asks for it.

With a GPU the trainings are longer and take minutes:

    gemkit search --data npz:FILE --max-macs 40M --max-params 800k --trials 34 --out runs/base
    python experiments/zoo.py --device cuda --same --only tiny --train-only
    python experiments/zoo.py --device cuda --run runs/base --only base --train-only
    python experiments/zoo.py --device cuda --run runs/base --only base --anew

--same trains the network that is packed already anew. --run takes the cells of another search: the
best one for `tiny` and `small`; for `base` the best of four, which are trained for ten epochs each
on 45,000 of the training images and judged on the other 5,000. --train-only leaves judging and
packing to a later call, perhaps on another machine; --device must be the same then.
"""

import argparse
import multiprocessing
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import compare
import numpy as np
import results_page
import torch
from rich.console import Console

from gemkit.app import formatting, zoo
from gemkit.app.runs import skeleton_of
from gemkit.app.steps.search import search
from gemkit.architecture import Architecture
from gemkit.budget import Budget, format_count
from gemkit.cell import CellArrays
from gemkit.cost import largest_widths
from gemkit.data import Dataset, load, proxy_split
from gemkit.export.benchmark import benchmark
from gemkit.export.card import interval
from gemkit.export.exporter import accuracy_of, export_onnx
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.network import GEMNet, build, load_network, save_weights
from gemkit.recipe import RECIPES, Recipe
from gemkit.records import plain
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.store import Run
from gemkit.train import Progress, train

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = f"npz:{compare.JPEG_COPY}"
SEED, TRIALS, PROMOTED, RERANKED = 0, 36, 4, 4
RECIPE = replace(RECIPES["standard"], batch_size=64, learning_rate=0.3)
"""Chosen for its speed, 1.2 times that of the standard recipe (batch 32). Five settings were tried
once each, for 3 epochs on 8,000 training images and judged on others of these: 42.6 % against
41.4 %, which is within the noise of one seed."""
LONG = RECIPES["full"].changed(batch_size=512)
"""On a GPU. The batch is larger than the full recipe's because such small networks leave most of a
GPU idle; nothing is dropped since each network has three cells only."""
PARAMS = 800_000
"""So many weights in half precision, with norms and statistics, stay below 2 MB. It binds for base
alone."""


RANKED_EPOCHS, RANKED_IMAGES = 10, 45_000


@dataclass(frozen=True)
class Size:
    """How large a network is, and for how long it is trained.

    Attributes:
        epochs: on a CPU.
        long_epochs: on a GPU.
        unasked: whether it is made when nothing is asked for.
    """

    macs: int
    epochs: int
    long_epochs: int
    unasked: bool = True


SIZES = {
    "tiny": Size(3_000_000, 20, 80),
    "small": Size(15_000_000, 10, 80),
    "base": Size(40_000_000, 10, 100, unasked=False),
}


def searched(spec: str, trials: int, out: Path, console: Console) -> tuple[list[Architecture], str]:
    """The full search at the smallest size: its networks, the best first, and what to say of it."""
    budget = Budget(macs=SIZES["tiny"].macs, params=PARAMS)
    finished = search(
        spec,
        budget,
        out=out / "search",
        trials=trials,
        promote=min(PROMOTED, trials),
        workers=1,
        device="cpu",
        seed=SEED,
        resume=True,
        console=console,
    )
    with finished as run:
        found = {trial.id: trial for trial in run.trials()}
        skeleton = skeleton_of(run)
        best = [found[id] for id in run.setting("ranking", list[str], [])]
    text = (
        f"Found by a NASGEM search over cells of up to 30 nodes within {budget.describe()}: "
        f"{trials} trials of {RECIPES['proxy'].epochs} epochs on {proxy_images(spec)} of the "
        "training images, "
        f"the best {min(PROMOTED, trials)} trained again three times as long; seed {SEED}."
    )
    return [Architecture((trial.cell,), skeleton, trial.width) for trial in best], text


def proxy_images(spec: str) -> str:
    """How many of the training images a trial of the search learns from, and is judged by."""
    split = proxy_split(load(spec), SEED)
    return f"{len(split.y_train):,} (and judged by {len(split.y_validation):,} others)"


def name_of(network: Architecture) -> str:
    """A cell and its width."""
    return f"{network.id}-{network.width}"


def rescaled(
    spec: str, size: Size, best: list[Architecture], folder: Path, console: Console
) -> tuple[Architecture, str]:
    """The best of the searched cells at another size, by a short training of each there."""
    chosen = best[:RERANKED]
    cells = CellArrays.from_cells([one.cells[0] for one in chosen])
    budget = Budget(macs=size.macs, params=PARAMS)
    widths = largest_widths(cells, chosen[0].skeleton, budget)
    networks = [replace(one, width=int(w)) for one, w in zip(chosen, widths, strict=True) if w]
    task = ProxyTask(spec, RECIPES["proxy"], device="cpu")
    file = folder / "ranking.json"
    known: dict[str, Any] = read_json(file) if file.is_file() else {}
    for network in networks:
        name = name_of(network)
        if name not in known:
            outcome = run_trial(task, network, SEED, RECIPES["proxy"].epochs)
            known[name] = outcome.accuracy
            write_json(file, known)
        console.print(f"  {name}: {formatting.percent(known[name])} on the proxy task")
    winner = max(networks, key=lambda network: known[name_of(network)] or 0.0)
    text = (
        f"No search of its own: the best {len(networks)} cells of a search as for gemnet-tiny "
        "(its command and seed; another processor takes another course) were made "
        f"as wide as {budget.describe()} allows and trained for {RECIPES['proxy'].epochs} epochs "
        f"on {proxy_images(spec)} of the training images each; this is the best of them."
    )
    return winner, text


def of_run(run: Path, size: Size) -> tuple[dict[Architecture, float], str]:
    """Cells of a search as wide as a size allows, the best first, and what to say of them.

    Each comes with what it reached in the search. These are the two best, the best of those with
    at least eight nodes, and the best of those with at least twenty: short trainings favour small
    cells.
    """
    with Run.open(run) as opened:
        ended = {trial.id: trial for trial in opened.trials()}
        ranking = [ended[id] for id in opened.setting("ranking", list[str], [])]
        skeleton = skeleton_of(opened)
        budget = opened.budget
        trials, epochs = opened.config["trials"], opened.config["epochs"]
    rest = sorted(
        (trial for trial in ended.values() if trial.accuracy is not None),
        key=lambda trial: -(trial.accuracy or 0.0),
    )
    ordered = list(dict.fromkeys(trial.id for trial in (*ranking, *rest)))
    chosen = ordered[:2]
    for least in (8, 20):
        large = [id for id in ordered if len(ended[id].cell.operations) > least]
        chosen += [id for id in large[:1] if id not in chosen]
    cells = CellArrays.from_cells([ended[id].cell for id in chosen])
    widths = largest_widths(cells, skeleton, Budget(macs=size.macs, params=PARAMS))
    text = (
        f"Found by a NASGEM search over cells of up to 30 nodes within {budget.describe()}: "
        f"{trials} trials of {formatting.number(epochs, 'epoch')} on a tenth of the training images"
    )
    return {
        Architecture((ended[id].cell,), skeleton, int(width)): ended[id].accuracy or 0.0
        for id, width in zip(chosen, widths, strict=True)
        if width
    }, text


def ranked(
    networks: Mapping[Architecture, float],
    spec: str,
    device: str,
    folder: Path,
    console: Console,
) -> tuple[Architecture, str]:
    """The best of several networks by a longer training of each, side by side."""
    file = folder / "ranking.json"
    known: dict[str, Any] = read_json(file) if file.is_file() else {}
    todo = [network for network in networks if name_of(network) not in known]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(len(todo), 1), mp_context=context) as pool:
        waiting = {pool.submit(_judged_within, one, spec, device): one for one in todo}
        for future in as_completed(waiting):
            known[name_of(waiting[future])] = future.result()
            write_json(file, known)
    lines = []
    for network, short in networks.items():
        nodes = len(network.cells[0].operations) - 1
        long = formatting.percent(known[name_of(network)])
        lines.append(f"{nodes} nodes: {formatting.percent(short)} there and {long} here")
        console.print(f"  {network.id} (width {network.width}), {lines[-1]}")
    return max(networks, key=lambda network: float(known[name_of(network)])), (
        f". Of {len(networks)} cells of it (the two best, the best of at least 8 nodes and of at "
        f"least 20, where these are others) the one that reached most after {RANKED_EPOCHS} epochs "
        f"on {RANKED_IMAGES:,} of the training images, judged on the others ({'; '.join(lines)})."
    )


def _judged_within(network: Architecture, spec: str, device: str) -> float:
    """Accuracy on training images that were kept out of a short training."""
    torch.set_num_threads(1)
    dataset = load(spec)
    order = np.random.default_rng(SEED).permutation(len(dataset.y_train))
    shown, kept = np.sort(order[:RANKED_IMAGES]), np.sort(order[RANKED_IMAGES:])
    torch.manual_seed(SEED)
    done = train(
        build(network),
        dataset.x_train[shown],
        dataset.y_train[shown],
        dataset.x_train[kept],
        dataset.y_train[kept],
        recipe=LONG.changed(RANKED_EPOCHS),
        mean=dataset.mean,
        std=dataset.std,
        seed=SEED,
        device=device,
    )
    return done.accuracy


def trained(
    network: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    device: str,
    folder: Path,
    console: Console,
) -> tuple[GEMNet, dict[str, Any]]:
    """Train once on all training images, going on where an earlier call was stopped."""
    weights, note = folder / "weights.safetensors", folder / "trained.json"
    if note.is_file() and weights.is_file():
        known: dict[str, Any] = read_json(note)
        if known["architecture"] == network.to_json() and known["recipe"] == recipe.to_json():
            return load_network(weights), known
    last = [0]

    def report(now: Progress) -> None:
        if now.epoch != last[0] or now.step == now.steps:
            last[0] = now.epoch
            console.print(
                f"  epoch {now.epoch} of {now.epochs}: loss {now.loss:.3f}, "
                f"{now.images_per_second:.0f} images/s, "
                f"{formatting.duration(now.seconds_left)} left"
            )

    torch.manual_seed(SEED)
    model = build(network)
    done = train(
        model,
        dataset.x_train,
        dataset.y_train,
        dataset.x_test,
        dataset.y_test,
        recipe=recipe,
        mean=dataset.mean,
        std=dataset.std,
        seed=SEED,
        device=device,
        progress=report,
        checkpoint=folder / "checkpoint",
    )
    save_weights(model, weights)
    known = {
        "architecture": network.to_json(),
        "recipe": recipe.to_json(),
        "accuracy": done.accuracy,
        "seconds": round(done.seconds, 1),
        "images_per_second": round(done.images_per_second, 1),
        "curve": done.curve,
        "device": device,
        "machine": describe_machine(),
        "versions": versions(),
    }
    write_json(note, known)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return model, known


def judged(model: GEMNet, name: str, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """What the exported file reaches and takes, by onnxruntime alone."""
    path = folder / f"{name}.onnx"
    export_onnx(
        model,
        path,
        input_shape=dataset.input_shape,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        images=dataset.x_test[:64],
        test=(dataset.x_test, dataset.y_test),
        seed=SEED,
    )
    accuracy = accuracy_of(path, dataset.x_test, dataset.y_test)
    measurements = [replace(one, model=name) for one in benchmark([path])]
    return {
        "accuracy": accuracy,
        "accuracy_interval": list(interval(accuracy, len(dataset.y_test))),
        "test_images": len(dataset.y_test),
        "latency_ms": plain(measurements[0].latency_ms),
        "measurements": plain(measurements),
    }


def packed(
    name: str,
    model: GEMNet,
    known: dict[str, Any],
    search_text: str,
    dataset: Dataset,
    command: str,
    folder: Path,
    into: Path,
) -> zoo.Card:
    """Judge and pack a trained network; its card."""
    size = SIZES[name.removeprefix("gemnet-")]
    model = zoo.rounded(model)
    figures = judged(model, name, dataset, folder)
    recipe = known["recipe"]
    place = known["machine"]["gpu"] if known["device"] == "cuda" else "a CPU"
    return zoo.pack(
        model,
        {
            "name": name,
            "data": dataset.name,
            "data_note": _note(dataset),
            **figures,
            "budget": Budget(macs=size.macs, params=PARAMS).to_json(),
            "search": {"text": search_text, "seed": SEED},
            "training": {
                "text": f"once, {recipe['epochs']} epochs on {len(dataset.y_train):,} images, "
                f"batch {recipe['batch_size']}, seed {SEED}, on {place}",
                "seed": SEED,
                **{name: known[name] for name in _TRAINING},
            },
            "class_names": list(dataset.class_names),
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "limits": [
                f"Trained for {recipe['epochs']} epochs: longer training may reach more.",
                f"Knows the {dataset.classes} classes of {dataset.name} alone, in images of "
                f"{'x'.join(map(str, dataset.input_shape[1:]))}, and gives one of them for any "
                "picture.",
                "One training from one seed; the interval is that of the test images alone.",
            ],
            "command": command,
            "machine": describe_machine(),
            "versions": versions(),
        },
        into,
    )


_TRAINING = ("recipe", "seconds", "images_per_second", "machine", "versions")
"""What a card says of a training beside its text. The card's own machine is the one that measured
the latencies."""


def _note(dataset: Dataset) -> str:
    if dataset.name.startswith("CIFAR-10"):
        return (
            f"The data is {dataset.name}: {len(dataset.y_train):,} images for training and "
            f"{len(dataset.y_test):,} for the test. CIFAR-10 (Krizhevsky 2009) comes without a "
            "formal licence; whether that suits your use is yours to judge."
        )
    return f"The data is {dataset.name}. {dataset.note}".strip()


def shortened(spec: str) -> str:
    """The data as a card names it: nothing for the default, and no folder of this machine."""
    kind, _, path = spec.partition(":")
    if spec == DEFAULT:
        return ""
    return f"{kind}:{Path(path).name}" if path else spec


def main() -> int:
    """Make the networks that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SIZES, action="append", help="make this one")
    parser.add_argument("--data", default=DEFAULT)
    parser.add_argument("--epochs", type=int, help="of the final training")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of the search")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "zoo", help="state")
    parser.add_argument("--into", type=Path, default=zoo.FOLDER, help="where the zoo is")
    parser.add_argument("--anew", action="store_true", help="replace what is packed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    cells = parser.add_mutually_exclusive_group()
    cells.add_argument("--run", type=Path, help="take the cells of this search")
    cells.add_argument("--same", action="store_true", help="train what is packed anew")
    parser.add_argument("--train-only", action="store_true", help="judge and pack later")
    given = parser.parse_args()
    if given.data == DEFAULT and not compare.JPEG_COPY.is_file():
        print(f"skipped: there is no {compare.JPEG_COPY} (CIFAR-10 as JPEG files)")
        return 0
    wanted = given.only or [name for name, size in SIZES.items() if size.unasked]
    there = {card.name for card in zoo.cards(given.into)}
    again = given.anew or given.train_only
    missing = [name for name in wanted if again or f"gemnet-{name}" not in there]
    if not missing:
        print(f"all there: {', '.join(wanted)}")
        return 0
    torch.set_num_threads(1)
    console = Console(highlight=False, soft_wrap=True, width=140)
    dataset = load(given.data)
    for short in missing:
        size, name = SIZES[short], f"gemnet-{short}"
        folder = given.out / short
        folder.mkdir(parents=True, exist_ok=True)
        architecture, text = chosen(short, given, folder, console)
        long = given.device == "cuda"
        recipe = LONG if long else RECIPE
        recipe = recipe.changed(given.epochs or (size.long_epochs if long else size.epochs))
        console.print(
            f"{name}: {architecture.id} of width {architecture.width}, {recipe.epochs} epochs on "
            f"{len(dataset.y_train):,} images"
        )
        model, known = trained(architecture, dataset, recipe, given.device, folder, console)
        if given.train_only:
            continue
        card = packed(
            name, model, known, text, dataset, command_of(short, given), folder, given.into
        )
        console.print(" | ".join(zoo.row(card)))
        if given.into == zoo.FOLDER:
            results_page.write()
    return 0


def chosen(
    short: str, given: argparse.Namespace, folder: Path, console: Console
) -> tuple[Architecture, str]:
    """What is trained for a size, and how it was found."""
    size = SIZES[short]
    if given.same:
        card = zoo.card(f"gemnet-{short}", given.into)
        return card.network, card.search["text"]
    if given.run is not None:
        networks, text = of_run(given.run, size)
        if short == "base":
            network, said = ranked(networks, given.data, given.device, folder, console)
            return network, text + said
        wide = Budget(macs=size.macs, params=PARAMS).describe()
        return next(iter(networks)), f"{text}; the best cell of it as wide as {wide} allows."
    best, text = searched(given.data, given.trials, given.out, console)
    if short == "tiny":
        return best[0], text
    return rescaled(given.data, size, best, folder, console)


def command_of(short: str, given: argparse.Namespace) -> str:
    """The command that makes a network of the zoo once more."""
    words = ["OMP_NUM_THREADS=1 python experiments/zoo.py --only", short]
    words += ["--device", given.device] if given.device != "cpu" else []
    words += ["--same", "--anew"] if given.same else []
    words += ["--run", f"runs/{given.run.name}"] if given.run is not None else []
    words += ["--epochs", str(given.epochs)] if given.epochs else []
    words += ["--trials", str(given.trials)] if given.trials != TRIALS else []
    words += ["--data", shown] if (shown := shortened(given.data)) else []
    return "\n".join([*_search_command(given.run), " ".join(words)])


def _search_command(run: Path | None) -> list[str]:
    """How the search was made whose cells were taken."""
    if run is None:
        return []
    with Run.open(run) as opened:
        config, budget = opened.config, opened.budget
    words = ["gemkit search --data", f"npz:{Path(config['data']).name}"]
    for option, limit in (("--max-macs", budget.macs), ("--max-params", budget.params)):
        words += [option, format_count(limit)] if limit is not None else []
    for option in ("trials", "workers", "device", "seed"):
        words += [f"--{option}", str(config[option])]
    return [" ".join([*words, "--out", f"runs/{run.name}"])]


if __name__ == "__main__":
    sys.exit(main())
