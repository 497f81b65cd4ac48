"""The steps from data to measured ONNX files, as functions.

    run = search("digits", Budget(macs=3_000_000, params=100_000), out="runs/first")
    models = train(run)
    export(run)
    bench(run)

or all of them by `run`. Each step works on what the one before left in the run's folder, and can
be repeated: what is done already is left alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gemkit import __version__
from gemkit.architecture import MIN_WIDTH, Architecture, Skeleton, skeleton_for
from gemkit.budget import Budget, check_feasible, format_latency
from gemkit.cell import Cell
from gemkit.cost import cost, count_with_fvcore
from gemkit.data import Dataset, Split, load, proxy_split
from gemkit.errors import UserError
from gemkit.files import write_bytes, write_json
from gemkit.machine import usable_cores
from gemkit.store import Run, Trial, is_run

from . import tables
from .final import Job, Outcome, restored, train_all
from .progress import bar, default_console

if TYPE_CHECKING:
    from gemkit.search.cell_space import CellSpace, Latency
    from gemkit.search.loop import Plan, Workers
    from gemkit.search.strategies import Strategy
    from gemkit.search.trials import ProxyTask
    from gemkit.train import Recipe

DEFAULT_TRIALS = 16
TOP = 2
RECIPE = "standard"
_EXAMPLES = 8
_TOLERANCE = 0.03
"""A network is planned to take so much less than a latency budget, for the noise of measuring."""


def default_budget(skeleton: Skeleton) -> Budget:
    """What is aimed for when no limit is given, by the size of the images."""
    side = min(skeleton.input_shape[1:])
    if side <= 12:
        return Budget(macs=3_000_000, params=100_000)
    if side <= 96:
        return Budget(macs=20_000_000, params=500_000)
    return Budget(macs=300_000_000, params=3_000_000)


def default_out(data: str, resume: bool) -> Path:
    """`runs/DATA`, or the next free `runs/DATA-2` and so on; the last one there to resume."""
    name = data.partition("@")[0].rstrip("/").partition(":")
    stem = Path(name[2]).stem if name[2] else name[0]
    first = Path("runs") / (stem or "run")
    path, number = first, 1
    while is_run(path):
        number += 1
        following = first.with_name(f"{first.name}-{number}")
        if resume and not is_run(following):
            break
        path = following
    return path


def _opened(run: Run | Path | str) -> Run:
    """The run, open for writing; a run that is open for reading is opened a second time."""
    return Run.open(run.path if isinstance(run, Run) else run, write=True)


# ---- search


def search(
    data: str = "digits",
    budget: Budget | None = None,
    *,
    out: Path | str | None = None,
    nodes: int = 30,
    aggregation: str = "concat",
    trials: int | None = None,
    time_limit: float | None = None,
    workers: int | None = None,
    dask: str | None = None,
    strategy: str = "nasgem",
    encoder: Path | str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    console: Console | None = None,
    command: str | None = None,
    hint: bool = True,
) -> Run:
    """Search for cells that fit a budget; everything found is in the run's folder.

    Args:
        data: as `gemkit.data.load` takes it.
        budget: hard limits; without any, `default_budget`.
        out: the run's folder, by default `default_out`.
        nodes: of the complete graph whose sub-graphs are candidates.
        trials: networks trained on the proxy task.
        time_limit: seconds after which no new trial is started.
        workers: processes; by default one per core.
        dask: address of a Dask scheduler that runs the trials instead.
        encoder: a graph encoder's file; by default the one that comes with gemkit.
        epochs: of a trial; by default those of the proxy recipe.
        resume: continue the run in `out`.
        command: what to write into the report as the way to repeat this.
        hint: end with a line that names the next command.

    Returns:
        the run, open for reading.

    Raises:
        UserError: an input is unusable or no network fits the budget; nothing was written then.
    """
    from gemkit.search import encoder as encoders
    from gemkit.search import strategies
    from gemkit.search.cell_space import CellSpace
    from gemkit.search.loop import Plan, Workers
    from gemkit.search.trials import ProxyTask, threads_per_worker
    from gemkit.train import RECIPES

    console = console or default_console()
    path = Path(out) if out is not None else default_out(data, resume)
    if is_run(path) and not resume:
        raise UserError(
            f"{path} already holds a run: continue it with --resume or choose another --out"
        )
    dataset = load(data)
    skeleton = skeleton_for(dataset.input_shape, dataset.classes)
    given = budget or Budget()
    budget = given
    if not any((given.macs, given.params, given.latency_ms, given.memory_bytes)):
        budget = replace(default_budget(skeleton), precision=given.precision)
    check_feasible(budget, skeleton)
    if budget.latency_ms is not None:
        from gemkit.export.latency import measure_here, smallest

        check_feasible(budget, skeleton, measure_here([smallest(skeleton)])[0])
    _check_device(device)
    graph_encoder = encoders.load_encoder(Path(encoder)) if encoder else encoders.default_encoder()
    many = Workers.dask(dask) if dask else Workers.local(workers or usable_cores())
    epochs = epochs or RECIPES["proxy"].epochs
    config = {
        "data": data,
        "budget": budget.to_json(),
        "seed": seed,
        "nodes": nodes,
        "aggregation": aggregation,
        "trials": trials or DEFAULT_TRIALS,
        "strategy": strategy,
        "encoder": str(encoder) if encoder else None,
        "epochs": epochs,
        "device": device,
        "workers": many.count,
        "dask": dask,
        "threads": threads_per_worker(many.count) if not dask else 1,
        "time_limit": time_limit,
    }
    console.print(
        f"data: {dataset.name}, {len(dataset.y_train):,} training and {len(dataset.y_test):,} "
        f"test images of {'x'.join(map(str, dataset.x_train.shape[1:]))}, "
        f"{dataset.classes} classes"
    )
    console.print(
        f"budget: {budget.describe()}"
        + ("" if budget == given else " (what gemkit aims for at this size of image)")
    )
    with Run.start(path, config, resume, changeable=_CHANGEABLE) as opened:
        opened.set_setting("skeleton", skeleton.to_json())
        opened.set_setting("data", _about(dataset))
        _note_command(opened, command)
        if not (path / "encoder.safetensors").is_file():
            encoders.save_encoder(graph_encoder, path / "encoder.safetensors")
        space = CellSpace(
            skeleton,
            budget,
            nodes,
            aggregation,
            latency=_latency_model(opened, skeleton, aggregation, console),
        )
        plan = Plan(
            trials=config["trials"],
            per_round=max(2, config["trials"] // 8),
            epochs=epochs,
            seconds=time_limit,
        )
        propose = strategies.strategy(
            strategy,
            lambda graphs: encoders.embed(graph_encoder, graphs.labels, graphs.adjacency),
            initial=max(3, opened.config["trials"] // 3),
        )
        task = ProxyTask(data, RECIPES["proxy"], seed, device, config["threads"])
        split = proxy_split(dataset, seed)
        missing = plan.trials - sum(trial.state in ("done", "failed") for trial in opened.trials())
        if missing > 0:
            _announce(space, split, dataset, epochs, missing, many.count, device, console)
        best = _search(opened, space, propose, task, plan, many, console)
        opened.set_setting("ranking", [trial.id for trial in best])
    if best:
        console.print(
            f"best of {tables.number(len(best), 'trial')}: {best[0].id}, "
            f"{tables.percent(best[0].accuracy)} on {len(split.y_validation):,} validation images"
        )
    if hint:
        console.print(f"next: gemkit train {path}")
    return Run.open(path)


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA GPU here; use auto or cpu")


_CHANGEABLE = ("workers", "dask", "threads", "time_limit", "trials")
"""What may differ when a search is resumed: it decides nothing about the trials made so far."""


def _about(dataset: Dataset) -> dict[str, Any]:
    """What a run remembers of its data."""
    return {
        "name": dataset.name,
        "note": dataset.note,
        "train": len(dataset.y_train),
        "test": len(dataset.y_test),
        "input_shape": list(dataset.input_shape),
        "class_names": list(dataset.class_names),
    }


def _note_command(run: Run, command: str | None) -> None:
    """Remember a command line, for the report."""
    commands = run.setting("commands", [])
    if command and command not in commands:
        run.set_setting("commands", [*commands, command])


def _announce(
    space: "CellSpace",
    split: Split,
    dataset: Dataset,
    epochs: int,
    trials: int,
    workers: int,
    device: str,
    console: Console,
) -> None:
    """Say how long the search is going to take, from a few training steps of sampled networks."""
    seconds = epochs * len(split.y_train) * _seconds_per_image(space, split, dataset, device)
    total = seconds * trials / workers
    console.print(
        f"search: {tables.number(trials, 'trial')} of about {tables.duration(seconds)} on "
        f"{tables.number(workers, 'worker')}: about {tables.duration(total)}"
    )


def _seconds_per_image(space: "CellSpace", split: Split, dataset: Dataset, device: str) -> float:
    import time

    import torch

    from gemkit.network import build
    from gemkit.train import RECIPES, TrainingFailed, train

    recipe = replace(RECIPES["proxy"], epochs=1)
    images = 2 * recipe.batch_size
    scaled = space.sample(np.random.default_rng(0), 3).payload
    spent: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for index in range(len(scaled)):
            network = build(
                Architecture((scaled.cells.cell(index),), space.skeleton, int(scaled.widths[index]))
            )
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                train(
                    network,
                    split.x_train[:images],
                    split.y_train[:images],
                    split.x_validation[:1],
                    split.y_validation[:1],
                    recipe=recipe,
                    mean=dataset.mean,
                    std=dataset.std,
                    seed=0,
                    device=device,
                )
                elapsed = time.perf_counter() - start
            spent.append(elapsed / min(images, len(split.y_train)))
    except TrainingFailed:
        pass
    finally:
        torch.set_num_threads(threads)
    return float(np.mean(spent)) if spent else 0.0


def _search(
    run: Run,
    space: "CellSpace",
    propose: "Strategy",
    task: "ProxyTask",
    plan: "Plan",
    workers: "Workers",
    console: Console,
) -> list[Trial]:
    from gemkit.search import loop

    ended = {trial.index: trial for trial in run.trials() if trial.state in ("done", "failed")}
    best = max((trial.accuracy or 0.0 for trial in ended.values()), default=0.0)
    with bar(console, "trials", plan.trials) as advance:

        def progress(trial: Trial) -> None:
            nonlocal best
            if trial.state not in ("done", "failed"):
                return
            ended[trial.index] = trial
            if trial.accuracy is None:
                console.print(f"  trial {trial.index} ({trial.id}) failed: {trial.error}")
            elif trial.accuracy > best:
                best = trial.accuracy
                console.print(
                    f"  trial {trial.index}: {tables.percent(best)}, the best so far "
                    f"({tables.number(trial.cell.nodes, 'node')}, width {trial.width}, "
                    f"{tables.count(trial.macs)} MACs)"
                )
            advance(completed=len(ended), note=f"best {tables.percent(best)}")

        advance(completed=len(ended))
        return loop.search(run, space, propose, task, plan, workers, progress)


def _latency_model(
    run: Run, skeleton: Skeleton, aggregation: str, console: Console
) -> "Latency | None":
    """What predicts latency in a search with a latency budget; None without one."""
    if run.budget.latency_ms is None:
        return None
    from gemkit.export import latency
    from gemkit.search.sampling import random_cells

    path = run.path / "latency.json"
    if not path.is_file():
        console.print(
            f"latency: measuring {latency.SAMPLES} networks on this machine to learn from: "
            "about a minute"
        )
        pool = random_cells(
            np.random.default_rng(run.seed), 8 * latency.SAMPLES, run.config["nodes"], aggregation
        )
        with bar(console, "measuring", 100) as advance:
            fitted = latency.fit_latency(
                skeleton,
                [pool.pruned()],
                budget=run.budget,
                seed=run.seed,
                progress=lambda share: advance(completed=int(100 * share)),
            )
        latency.save_model(fitted, path)
    return latency.load_model(path).safe


# ---- latency


def narrowed(architecture: Architecture, limit: float) -> tuple[Architecture | None, float]:
    """The architecture at the largest width, at most its own, that is measured inside a limit.

    Returns:
        the architecture, None when even the smallest width is too slow, and its milliseconds.
    """
    aim = limit * (1 - _TOLERANCE)
    from gemkit.export.latency import measure_here

    found = measure_here([architecture])[0]
    if found <= aim:
        return architecture, found
    low, high = MIN_WIDTH - 1, architecture.width  # inside (or none), outside
    best: tuple[Architecture | None, float] = None, found
    while high - low > 1:
        # Latency grows about linearly with the width; halving protects from a bad guess.
        guess = int(high * aim / found) if best[0] is None else (low + high) // 2
        width = min(max(guess, low + 1), high - 1)
        candidate = replace(architecture, width=width)
        milliseconds = measure_here([candidate])[0]
        if milliseconds <= aim:
            low, best = width, (candidate, milliseconds)
        else:
            high, found = width, milliseconds
    return best


# ---- train


def train(
    run: Run | Path | str,
    ids: Sequence[str] = (),
    *,
    top: int = TOP,
    recipe: str = RECIPE,
    epochs: int | None = None,
    data: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    console: Console | None = None,
    hint: bool = True,
) -> list[dict[str, Any]]:
    """Train networks of a run on all training data and take their test accuracy, once.

    The networks are the `ids`, or the `top` best trials in the search's own order. Where the run
    has a latency budget each is first measured and, if need be, narrowed until it fits; one that
    fits at no width, or whose training fails, is replaced by the next best. One torchvision
    network of about the first one's size is trained beside them under the same recipe. Networks
    that are trained already are left alone.

    Args:
        recipe: a name in `gemkit.train.RECIPES`.
        epochs: instead of the recipe's.
        data: other data of the same shape and number of classes.

    Returns:
        the models trained, under the names that programs read.

    Raises:
        UserError: no run, no such id, or data of another shape.
    """
    from gemkit.train import RECIPES

    console = console or default_console()
    with _opened(run) as opened:
        spec = data or opened.config["data"]
        dataset = load(spec)
        skeleton = _skeleton(opened)
        if (dataset.input_shape, dataset.classes) != (skeleton.input_shape, skeleton.classes):
            raise UserError(
                f"{spec} has {dataset.classes} classes of {dataset.input_shape} images, but "
                f"{opened.path} was searched for {skeleton.classes} of {skeleton.input_shape}"
            )
        chosen = _chosen_trials(opened, ids)
        schedule = RECIPES[recipe] if epochs is None else RECIPES[recipe].with_epochs(epochs)
        wanted = len(ids) or min(top, len(chosen))
        opened.set_setting("recipe", {"recipe": recipe, **schedule.to_json()})
        _train_models(opened, spec, dataset, chosen, wanted, schedule, device, workers, console)
        _keep_examples(opened.path, dataset)
        models = [model for model in opened.models() if model["accuracy"] is not None]
        if hint:
            console.print(f"next: gemkit export {opened.path}")
        return models


def _skeleton(run: Run) -> Skeleton:
    return Skeleton.from_json(run.setting("skeleton"), where=f"{run.path}: skeleton")


def _chosen_trials(run: Run, ids: Sequence[str]) -> list[Trial]:
    """The trials to train in full: those named, or all that are done, the best first."""
    from . import show

    trials = {trial.id: trial for trial in run.trials()}
    if ids:
        content = {"models": [], "trials": [trial.to_json() for trial in trials.values()]}
        return [trials[show.find(content, id, run.path)["id"]] for id in dict.fromkeys(ids)]
    done = {id: trial for id, trial in trials.items() if trial.accuracy is not None}
    if not done:
        raise UserError(
            f"{run.path} has no finished trial: run `gemkit search --out {run.path} --resume` first"
        )
    order = {id: place for place, id in enumerate(run.setting("ranking", []))}
    return sorted(
        done.values(),
        key=lambda trial: (order.get(trial.id, len(order)), -(trial.accuracy or 0), trial.index),
    )


def _train_models(
    run: Run,
    data: str,
    dataset: Dataset,
    chosen: Sequence[Trial],
    wanted: int,
    recipe: "Recipe",
    device: str,
    workers: int | None,
    console: Console,
) -> None:
    """Train until `wanted` of the chosen are trained (or none is left), and the baseline."""
    waiting = list(chosen)
    while True:
        models = {model["id"]: model for model in run.models()}
        good = [t for t in chosen if models.get(t.id, {}).get("state") == "done"]
        missing = wanted - len(good)
        jobs: list[Job] = []
        while waiting and len(jobs) < missing:
            trial = waiting.pop(0)
            known = models.get(trial.id)
            if known and known["state"] in ("done", "failed"):
                continue
            job = _planned(run, trial, known, console)
            if job is not None:
                jobs.append(job)
        baseline = _planned_baseline(run, dataset)
        if baseline is not None:
            jobs.append(baseline)
        if not jobs:
            break
        _run_jobs(run, data, dataset, jobs, recipe, device, workers or usable_cores(), console)


def _planned(
    run: Run, trial: Trial, known: Mapping[str, Any] | None, console: Console
) -> Job | None:
    """A trial's network as a job, narrowed to the latency budget; None when it cannot fit."""
    skeleton = _skeleton(run)
    architecture = Architecture((trial.cell,), skeleton, trial.width)
    extra: dict[str, Any] = {"trial": trial.index, "validation_accuracy": trial.accuracy}
    limit = run.budget.latency_ms
    if known and known["width"]:  # decided before an interruption
        architecture = replace(architecture, width=known["width"])
    elif limit is not None:
        fitting, milliseconds = narrowed(architecture, limit)
        if fitting is None:
            run.put_model(
                trial.id,
                cell=trial.cell.to_json(),
                state="failed",
                error=f"measured {format_latency(milliseconds)} even at the smallest width",
            )
            console.print(f"  {trial.id} fits {format_latency(limit)} at no width: next one taken")
            return None
        if fitting.width < trial.width:
            console.print(
                f"  {trial.id} narrowed from width {trial.width} to {fitting.width} to stay "
                f"within {format_latency(limit)} (measured {format_latency(milliseconds)})"
            )
        architecture = fitting
        extra["measured_before_training_ms"] = milliseconds
    price = cost(architecture, run.budget.precision)
    run.put_model(
        trial.id,
        cell=architecture.cells[0].to_json(),
        width=architecture.width,
        macs=price.macs,
        params=price.params,
        peak_memory_bytes=price.peak_memory_bytes,
        seed=trial.seed,
        state="queued",
        extra=extra,
    )
    return Job(trial.id, architecture, {}, trial.seed, run.path / "models" / trial.id)


def _run_jobs(
    run: Run,
    data: str,
    dataset: Dataset,
    jobs: Sequence[Job],
    recipe: "Recipe",
    device: str,
    workers: int,
    console: Console,
) -> None:
    console.print(
        f"training {tables.number(len(jobs), 'network')} "
        f"({', '.join(job.name for job in jobs)}) for {tables.number(recipe.epochs, 'epoch')} on "
        f"{len(dataset.y_train):,} images, {tables.number(min(workers, len(jobs)), 'worker')}"
    )
    shares = dict.fromkeys((job.name for job in jobs), 0.0)
    with bar(console, "epochs", recipe.epochs * len(jobs)) as advance:

        def tell(name: str, share: float) -> None:
            shares[name] = share
            advance(completed=int(recipe.epochs * sum(shares.values())))

        for job in jobs:
            _put(run, job, state="running")
        for job, outcome in train_all(jobs, data, recipe, device, workers, tell):
            _finish(run, job, outcome)
            text = (
                f"failed: {outcome.error}"
                if outcome.accuracy is None
                else f"{tables.percent(outcome.accuracy)} on {len(dataset.y_test):,} test images"
            )
            console.print(f"  {job.name}: {text} ({tables.duration(outcome.seconds)})")


def _put(run: Run, job: Job, **values: Any) -> None:
    (run.put_baseline if job.architecture is None else run.put_model)(job.name, **values)


def _finish(run: Run, job: Job, outcome: Outcome) -> None:
    entries = run.baselines() if job.architecture is None else run.models()
    extra = next((entry["extra"] for entry in entries if entry["id"] == job.name), None) or {}
    _put(
        run,
        job,
        state="failed" if outcome.accuracy is None else "done",
        error=outcome.error,
        accuracy=outcome.accuracy,
        seconds=outcome.seconds,
        epochs=outcome.epochs,
        extra={
            **extra,
            "curve": outcome.curve,
            "images_per_second": outcome.images_per_second,
        },
    )
    if job.architecture is not None and outcome.accuracy is not None:
        write_json(job.folder / "cell.json", job.architecture.cells[0].to_json())


def _planned_baseline(run: Run, dataset: Dataset) -> Job | None:
    """The torchvision network of about the size of the first model; None when it is trained."""
    from gemkit.baselines import nearest_baseline

    known = run.baselines()
    if any(entry["state"] in ("done", "failed") for entry in known):
        return None
    if known:
        return _baseline_job(run, known[0])
    models = [model for model in run.models() if model["macs"] is not None]
    if not models:
        return None
    first = models[0]
    price = cost(_architecture(run, first), run.budget.precision)
    try:
        name, network = nearest_baseline(dataset.input_shape, dataset.classes, price)
    except UserError:  # none of them can be made so small
        return None
    macs, params = count_with_fvcore(network, dataset.input_shape)
    limits = {"max_macs": price.macs, "max_params": price.params}
    run.put_baseline(
        name, macs=macs, params=params, seed=run.seed, state="queued", extra={"limits": limits}
    )
    return _baseline_job(run, run.baselines()[0])


def _baseline_job(run: Run, entry: Mapping[str, Any]) -> Job:
    limits = (entry["extra"] or {}).get("limits", {})
    return Job(entry["id"], None, limits, entry["seed"], run.path / "baselines" / entry["id"])


def _architecture(run: Run, model: Mapping[str, Any]) -> Architecture:
    where = f"{run.path}: model {model['id']}"
    return Architecture((Cell.from_json(model["cell"], where),), _skeleton(run), model["width"])


def _model_job(run: Run, model: Mapping[str, Any]) -> Job:
    folder = run.path / "models" / model["id"]
    return Job(model["id"], _architecture(run, model), {}, model["seed"], folder)


def _keep_examples(folder: Path, dataset: Dataset) -> None:
    """A few test images as files, for `predict` and the page to be tried with."""
    import io

    from PIL import Image

    if dataset.input_shape[0] not in (1, 3) or (folder / "examples").is_dir():
        return
    for index in np.linspace(0, len(dataset.y_test) - 1, _EXAMPLES).astype(int):
        pixels = dataset.x_test[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        label = "".join(
            c if c.isalnum() else "-" for c in dataset.class_names[dataset.y_test[index]]
        )
        write_bytes(folder / "examples" / f"{index:05d}-{label}.png", buffer.getvalue())


# ---- export


def export(
    run: Run | Path | str,
    ids: Sequence[str] = (),
    *,
    precision: Sequence[str] = ("fp32",),
    optimize: str | None = None,
    out: Path | str | None = None,
    console: Console | None = None,
    hint: bool = True,
) -> list[dict[str, Any]]:
    """Write the trained networks of a run as ONNX files that were checked and fit the budget.

    Each file is compared with PyTorch, its network counted by fvcore and, where the budget limits
    latency, measured; what does not hold is not delivered. Files that are there are left alone.

    Args:
        ids: only these models.
        precision: fp32 is always written; fp16 and int8 come from it, as `model.fp16.onnx` and
            `model.int8.onnx`, int8 calibrated on training images.
        optimize: "latency" or "memory": also write `model.optimized.onnx`, the fp32 graph
            rewritten as measurements on this machine (or the peak memory) tell.
        out: also copy the files to this folder, as `ID.onnx`, `ID.int8.onnx` and so on.

    Returns:
        the models, under the names that programs read.

    Raises:
        UserError: no run, no such model, or nothing trained yet.
    """
    console = console or default_console()
    with _opened(run) as opened:
        models = _chosen_models(opened, ids)
        dataset = load(opened.config["data"])
        entries = [
            (_model_job(opened, model), model)
            for model in models
            if not (model["onnx"] and (opened.path / model["onnx"]).is_file())
        ]
        for entry in opened.baselines():
            path = entry["onnx"]
            if entry["accuracy"] is not None and not (path and (opened.path / path).is_file()):
                entries.append((_baseline_job(opened, entry), entry))
        if entries:
            console.print(
                f"exporting {tables.number(len(entries), 'network')}: about 10 seconds each"
            )
        with bar(console, "networks exported", len(entries)) as advance:
            for index, (job, entry) in enumerate(entries):
                _export_one(opened, job, entry, dataset, console)
                advance(completed=index + 1)
        chosen = {model["id"] for model in models}
        delivered = [model for model in opened.models() if model["id"] in chosen]
        for model in delivered:
            if model["onnx"]:
                _convert(opened.path / model["onnx"], precision, optimize, dataset, console)
                if out is not None:
                    _copy(opened.path / model["onnx"], model["id"], Path(out))
        if hint:
            console.print(f"next: gemkit bench {opened.path}")
        return delivered


def _convert(
    path: Path,
    precision: Sequence[str],
    optimize: str | None,
    dataset: Dataset,
    console: Console,
) -> None:
    """Write the other precisions of a model and its optimised form, where asked for."""
    from gemkit.export import optimize as optimizer
    from gemkit.export import quantize

    training = (dataset.x_train, dataset.y_train)
    test = (dataset.x_test, dataset.y_test)
    id = path.parent.name
    for kind in precision:
        if kind == "fp32":
            continue
        target = path.with_name(f"model.{kind}.onnx")
        with bar(console, f"{id} {kind}", 100) as advance:
            if kind == "fp16":
                found = quantize.to_fp16(path, target, test=test)
            else:
                found = quantize.to_int8(
                    path,
                    target,
                    training=training,
                    test=test,
                    progress=lambda share: advance(completed=int(100 * share)),
                )
        console.print(
            f"  {id} {kind}: {tables.percent(found.accuracy)} "
            f"(fp32 {tables.percent(found.reference_accuracy)}), "
            f"{tables.size(found.file_bytes)} (fp32 {tables.size(found.reference_bytes)}), "
            f"{found.speedup:.2f} times as fast"
        )
        for note in found.notes:
            console.print(f"    {note}", markup=False)
    if optimize is not None:
        report = optimizer.optimize_file(
            path, path.with_name("model.optimized.onnx"), objective=optimize
        )
        before, after = report.peak_memory_bytes
        console.print(
            f"  {id} optimised for {optimize}: {report.speedup:.2f} times as fast, peak memory "
            f"{tables.size(before)} -> {tables.size(after)}; applied: "
            f"{', '.join(report.applied) or 'nothing, since nothing paid'}",
            markup=False,
        )


def _files(path: Path) -> list[Path]:
    """The ONNX files beside a model's, its own first."""
    return [path, *(other for other in sorted(path.parent.glob("*.onnx")) if other != path)]


def _copy(path: Path, id: str, out: Path) -> None:
    for file in _files(path):
        write_bytes(out / file.name.replace("model", id, 1), file.read_bytes())


def _chosen_models(run: Run, ids: Sequence[str]) -> list[dict[str, Any]]:
    from . import show

    trained = [model for model in run.models() if model["accuracy"] is not None]
    if not trained:
        raise UserError(f"{run.path} has no trained network: run `gemkit train {run.path}` first")
    if not ids:
        return [model for model in trained if model["state"] == "done"]
    content = {"models": trained, "trials": []}
    return [show.find(content, id, run.path) for id in dict.fromkeys(ids)]


def _export_one(
    run: Run, job: Job, entry: Mapping[str, Any], dataset: Dataset, console: Console
) -> None:
    from gemkit.export.benchmark import latency_ms
    from gemkit.export.exporter import export_onnx

    network = restored(job, dataset)
    budget = run.budget
    macs, params = count_with_fvcore(network, dataset.input_shape)
    if job.architecture is not None:
        for what, limit, found in (("MACs", budget.macs, macs), ("params", budget.params, params)):
            if limit is not None and found > limit:
                raise RuntimeError(f"{job.name} has {found} {what}, the budget is {limit}")
    path = job.folder / "model.onnx"
    exported = export_onnx(
        network,
        path,
        input_shape=dataset.input_shape,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        images=dataset.x_test[:64],
        test=(dataset.x_test, dataset.y_test),
        metadata={
            "id": job.name,
            "accuracy": entry["accuracy"],
            "budget": budget.to_json(),
            "data": dataset.name,
            "macs": macs,
            "params": params,
            "version": __version__,
        },
        seed=run.seed,
    )
    values: dict[str, Any] = {
        "onnx": str(path.relative_to(run.path)),
        "parity_max_abs": exported.parity_max_abs,
    }
    text = (
        f"  {job.name}: {exported.file_bytes / 1000:.0f} kB, parity "
        f"{exported.parity_max_abs:.1e}, accuracy of the file {tables.percent(exported.accuracy)}"
    )
    if job.architecture is not None and budget.latency_ms is not None:
        milliseconds = latency_ms([path])[0]
        if milliseconds > budget.latency_ms:  # once more, longer: the machine may have been busy
            milliseconds = latency_ms([path], rounds=15, seconds=0.4)[0]
        text += f", {format_latency(milliseconds)}"
        if milliseconds > budget.latency_ms:
            path.unlink()
            reason = f"measured {format_latency(milliseconds)} when it was exported"
            values = {"onnx": None, "state": "failed", "error": reason}
            text += ": over the budget, not delivered"
    _put(run, job, **values)
    if job.architecture is not None:
        _draw(run, job, entry)
    console.print(text)


def _draw(run: Run, job: Job, entry: Mapping[str, Any]) -> None:
    from . import figures, show

    assert job.architecture is not None
    cell = job.architecture.cells[0]
    figure = figures.cell_figure(cell, f"Cell {job.name}", show.describe(dict(entry), cell))
    figures.save(figure, job.folder / "cell.png")


# ---- bench


def bench(
    *what: Run | Path | str,
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (1,),
    provider: Sequence[str] = ("cpu",),
    console: Console | None = None,
    hint: bool = True,
) -> list[dict[str, Any]]:
    """Measure a run's ONNX files and baselines, or any files and networks by name.

    A run's measurements are stored in it, and its report is written anew.

    Args:
        what: one run, or ONNX files and names in `gemkit.baselines.BASELINES`.

    Returns:
        the measurements, under the names that programs read.

    Raises:
        UserError: something cannot be measured.
    """
    from gemkit.export.benchmark import benchmark

    console = console or default_console()
    runs = [item for item in what if isinstance(item, Run) or Path(item).is_dir()]
    if runs and len(what) > 1:
        raise UserError("give one run alone, or ONNX files and names of networks without a run")
    options: dict[str, Any] = {"threads": threads, "batches": batch, "providers": provider}
    if not runs:
        models = [str(item) for item in what]
        with bar(console, "measuring", 100) as advance:
            found = benchmark(
                models, progress=lambda share: advance(completed=int(100 * share)), **options
            )
        _print_measurements(found, console)
        return found
    with _opened(runs[0]) as opened:
        content = opened.to_json()
        entries = [
            (kind, entry)
            for kind in ("models", "baselines")
            for entry in content[kind]
            if entry["onnx"] and (opened.path / entry["onnx"]).is_file()
        ]
        if not any(kind == "models" for kind, _ in entries):
            raise UserError(
                f"{opened.path} has no ONNX file to measure: run `gemkit export {opened.path}` "
                "first"
            )
        files = {
            str(file): (kind, entry)
            for kind, entry in entries
            for file in _files(opened.path / entry["onnx"])
        }
        console.print(f"measuring {tables.number(len(files), 'ONNX file')} side by side, in rounds")
        with bar(console, "measuring", 100) as advance:
            found = benchmark(
                list(files),
                progress=lambda share: advance(completed=int(100 * share)),
                **options,
            )
        for one in found:
            kind, entry = files[one["model"]]
            one["onnx"] = str(Path(one["model"]).relative_to(opened.path))
            one["id"] = one["model"] = entry["id"]
        for kind, entry in entries:
            own = [one for one in found if one["id"] == entry["id"]]
            _keep_measurements(opened, kind, entry, own)
        _print_measurements(found, console)
        _finish_report(opened)
        console.print(f"report: {opened.path / 'report.md'}")
        if hint:
            console.print(f"next: gemkit app {opened.path}")
    return found


def _keep_measurements(
    run: Run, kind: str, entry: Mapping[str, Any], own: Sequence[dict[str, Any]]
) -> None:
    """Store measurements; those of the same file and conditions replace older ones."""
    conditions = ("onnx", "provider", "threads", "batch")
    known = {tuple(one[name] for name in conditions): one for one in entry["measurements"] or []}
    known |= {tuple(one[name] for name in conditions): one for one in own}
    values: dict[str, Any] = {"measurements": list(known.values())}
    plain = known.get((entry["onnx"], "CPUExecutionProvider", 1, 1))
    if plain is not None:
        values["latency_ms"] = plain["latency_ms"]
    (run.put_model if kind == "models" else run.put_baseline)(entry["id"], **values)
    write_json(run.path / kind / entry["id"] / "bench.json", values["measurements"])
    if kind == "models":
        _write_card(run, entry, values["measurements"])


def _write_card(
    run: Run, entry: Mapping[str, Any], measurements: Sequence[Mapping[str, Any]]
) -> None:
    from gemkit.export.card import write_card

    data = run.setting("data", {})
    recipe = run.setting("recipe", {})
    path = run.path / entry["onnx"]
    write_card(
        path.with_name("card.md"),
        path,
        data=data.get("name", run.config["data"]),
        accuracy=entry["accuracy"],
        test_images=data.get("test"),
        training=f"{entry['epochs']} epochs, recipe {recipe.get('recipe')}, seed {entry['seed']}",
        budget=run.budget,
        parity_max_abs=entry["parity_max_abs"],
        measurements=measurements,
        files=_files(path)[1:],
    )


def _print_measurements(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    from .show import measurement_table

    console.print(measurement_table(found))
    for one in found:
        for note in one.get("notes", ()):
            console.print(f"  {one['model']}: {note}", markup=False)


def _finish_report(run: Run) -> None:
    from . import report

    report.write(run)


# ---- all


def run(
    data: str = "digits",
    budget: Budget | None = None,
    *,
    top: int = TOP,
    recipe: str = RECIPE,
    epochs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """All steps: search, train the best, export, measure, report. Arguments as theirs."""
    console = console or default_console()
    found = search(
        data,
        budget,
        epochs=epochs,
        device=device,
        workers=workers,
        resume=resume,
        console=console,
        hint=False,
        **options,
    )
    path = found.path
    found.close()
    chosen = {"top": top, "recipe": recipe, "epochs": epochs, "device": device}
    delivered: list[dict[str, Any]] = []
    known = -1
    while True:
        models = train(path, workers=workers, console=console, hint=False, **chosen)
        if len(models) == known:  # no other network is left to take a refused one's place
            break
        known = len(models)
        delivered = [model for model in export(path, console=console, hint=False) if model["onnx"]]
        if len(delivered) >= top:
            break
    if not delivered:
        with Run.open(path) as opened:
            reasons = [str(model["error"]) for model in opened.models() if model["error"]]
        raise UserError(
            f"no network could be delivered within the budget ({'; '.join(reasons[:3])}): "
            f"allow more, or more trials; what was tried is in {path}"
        )
    bench(path, console=console)
    return Run.open(path)
