"""`gemkit train`: the best of a search and the strongest known network, trained in full."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from gemkit.architecture import MIN_WIDTH, Architecture
from gemkit.budget import format_count, format_latency
from gemkit.cell import CellArrays, write_cell
from gemkit.cost import cost
from gemkit.data import Dataset, held_out, load
from gemkit.errors import UserError
from gemkit.export import latency
from gemkit.files import write_bytes
from gemkit.identity import absolute
from gemkit.machine import usable_cores
from gemkit.recipe import RECIPES, Recipe
from gemkit.records import (
    TEACHER_SETTING,
    Latency,
    Limits,
    Model,
    OnTarget,
    Scalar,
    TeacherInfo,
    Trial,
)
from gemkit.store import Run
from gemkit.views import read_lessons
from gemkit.widths import VECTOR

from .. import formatting, run_data
from ..report import plots
from ..runs import (
    LATENCY_FILE,
    check_suits,
    data_of,
    find,
    is_elsewhere,
    network_of,
    opened,
    ranked_trials,
    target_name,
)
from ..terminal.progress import default_console
from . import estimate, known, teaching, torchrun
from .final_training import Outcome, Settings, check_tensorboard, train_side_by_side
from .networks import Job, job_of, put

TOP = 2
RECIPE, TAUGHT_RECIPE = "standard", "taught"
_EXAMPLES = 8


def narrowed(architecture: Architecture, limit: float) -> tuple[Architecture | None, float]:
    """The architecture at the largest width, at most its own, that is measured inside a limit.

    Multiples of a processor's vector are tried first, then what lies between two of them.

    Returns:
        the architecture, None when even the smallest width is too slow, and its milliseconds.
    """
    aim = limit * (1 - known.TOLERANCE)
    found = latency.measure_here([architecture])[0]
    if found <= aim:
        return architecture, found
    best: tuple[Architecture | None, float] = None, found
    inside, above = 0, architecture.width
    for step in (VECTOR, VECTOR // 2, 1):
        low, high = max(inside // step, -(-MIN_WIDTH // step) - 1), -(-above // step)
        while high - low > 1:
            # Latency grows about linearly with the width; halving protects from a bad guess.
            guess = int(above * aim / found) // step if best[0] is None else (low + high) // 2
            middle = min(max(guess, low + 1), high - 1)
            candidate = replace(architecture, width=middle * step)
            milliseconds = latency.measure_here([candidate])[0]
            if milliseconds <= aim:
                low, inside, best = middle, middle * step, (candidate, milliseconds)
            else:
                high, above, found = middle, middle * step, milliseconds
    return best


def train(
    run: Run | Path | str,
    ids: Sequence[str] = (),
    *,
    dataset: Dataset | None = None,
    top: int = TOP,
    recipe: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    data: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    tensorboard: bool = False,
    compile: bool = False,
    teacher: str | None = None,
    unlabelled: Path | None = None,
    console: Console | None = None,
) -> list[Model]:
    """Train networks of a run and take their accuracy on the hold-out and, once, on the test set.

    The networks are the `ids`, or the `top` best trials in the search's own order. Where the run
    has a latency budget each is first measured and, if need be, narrowed until it fits; one that
    fits at no width, or whose training fails, is replaced by the next best. The strongest known
    network of the same limits is trained beside them under the same recipe. Networks that are
    trained already are left alone.

    Args:
        dataset: the data, where they are loaded already.
        recipe: a name in `gemkit.recipe.RECIPES`; by default `RECIPE`, or `TAUGHT_RECIPE`.
        epochs, batch_size: instead of the recipe's.
        data: other data of the same shape and number of classes.
        tensorboard: write event files, to `models/ID/tensorboard` and so on.
        compile: use `torch.compile`.
        teacher: what the networks learn from, as `teaching.find` takes it; the run's own if None.
        unlabelled: folder of pictures that the teacher alone sees classes in.

    Returns:
        the models trained.

    Raises:
        UserError: no run, no such id, or data of another shape.
    """
    console = console or default_console()
    if tensorboard:
        check_tensorboard()
    with opened(run) as run:
        dataset = run_data.for_training(run, dataset) if data is None else load(data)
        spec = absolute(data or data_of(run))
        check_suits(run, dataset, spec)
        chosen = _chosen_trials(run, ids)
        taught = run.setting(TEACHER_SETTING, TeacherInfo)
        if teacher is None and taught is not None:
            teacher = taught.name
            unlabelled = Path(taught.unlabelled) if taught.unlabelled else None
        recipe = recipe or (RECIPE if teacher is None else TAUGHT_RECIPE)
        wanted = len(ids) or min(top, len(chosen))
        trained = [one.id for one in run.models() if one.accuracy is not None]
        if trained and not run_data.is_same(run, dataset, spec):
            raise UserError(
                f"{run.path}: {trained[0]} was trained on {data_of(run)}, and its networks "
                f"are judged together: use these data, or another run for {spec}"
            )
        run_data.remember(run, spec, dataset)
        lessons = None
        if teacher is not None:
            lessons = teaching.prepare(run, dataset, spec, teacher, unlabelled, device, console)
        schedule = _schedule(recipe, epochs, batch_size, dataset, lessons)
        run.set_setting("recipe", {"recipe": recipe, **schedule.to_json()})
        settings = Settings(
            spec,
            schedule,
            device,
            hold_out=True,
            tensorboard=tensorboard,
            compile=compile,
            lessons=None if lessons is None else str(lessons),
        )
        _name_left_alone(run, chosen[:wanted], schedule.epochs, console)
        _train_models(run, dataset, chosen, wanted, settings, workers, console)
        _draw_mistakes(run, dataset)
        _keep_mistakes(run, dataset)
        keep_examples(run.path, dataset)
        run_data.keep_pictures(run, dataset)
        if (recommendation := run.recommendation()) is not None:
            console.print(formatting.recommendation_line(recommendation))
        return [model for model in run.models() if model.accuracy is not None]


def _schedule(
    name: str, epochs: int | None, batch_size: int | None, dataset: Dataset, lessons: Path | None
) -> Recipe:
    """A recipe with the options' values, as long as it asks to be for so many images."""
    recipe = RECIPES[name].changed(epochs, batch_size)
    if epochs is not None:
        return recipe
    trained = len(dataset.y_train) - len(held_out(dataset))
    return recipe.lengthened(trained if lessons is None else len(read_lessons(lessons)))


def _name_left_alone(run: Run, chosen: Sequence[Trial], epochs: int, console: Console) -> None:
    """Name the networks that stay as an earlier training for another time made them."""
    known = {model.id: model.epochs for model in run.models() if model.state == "done"}
    for trial in chosen:
        before = known.get(trial.id)
        if before is not None and before != epochs:
            console.print(
                f"{trial.id} is trained already, for {formatting.number(before, 'epoch')}, "
                "and left "
                "alone: train it otherwise in another run (search with another --out)"
            )


def _chosen_trials(run: Run, ids: Sequence[str]) -> list[Trial]:
    """The trials to train in full: those named, or all that are done, the best first."""
    if not ids:
        return ranked_trials(run)
    trials = run.trials()
    return [find(id, run.path, trials) for id in dict.fromkeys(ids)]


def _train_models(
    run: Run,
    dataset: Dataset,
    chosen: Sequence[Trial],
    wanted: int,
    settings: Settings,
    workers: int | None,
    console: Console,
) -> None:
    """Train until `wanted` of the chosen are trained (or none is left), and the baseline."""
    waiting = list(chosen)
    while True:
        models = {model.id: model for model in run.models()}
        good = {model.id for model in models.values() if model.state == "done"}
        missing = wanted - sum(trial.id in good for trial in chosen)
        jobs: list[Job] = []
        while waiting and len(jobs) < missing:
            trial = waiting.pop(0)
            known = models.get(trial.id)
            if known and known.state in ("done", "failed"):
                continue
            job = _planned(run, trial, known, console)
            if job is not None:
                jobs.append(job)
        baseline = _planned_baseline(run, dataset, settings.recipe.batch_size, console)
        if baseline is not None:
            jobs.append(baseline)
        if not jobs:
            break
        _run_jobs(run, dataset, jobs, settings, workers or usable_cores(), console)


def _planned(run: Run, trial: Trial, known: Model | None, console: Console) -> Job | None:
    """A trial's network as a job, narrowed to the latency budget; None when it cannot fit."""
    architecture = network_of(run, trial)
    model = Model(
        id=trial.id,
        cell=trial.cell,
        seed=trial.seed,
        trial=trial.index,
        skeleton=trial.skeleton,
        validation_accuracy=trial.accuracy,
    )
    limit = run.budget.latency_ms
    if known and known.width:  # decided before an interruption
        architecture = replace(architecture, width=known.width)
        model = known
    elif limit is not None and not is_elsewhere(run):
        fitting, milliseconds = narrowed(architecture, limit)
        if fitting is None:
            reason = f"measured {format_latency(milliseconds)} even at the smallest width"
            run.put(replace(model, state="failed", error=reason))
            console.print(f"  {trial.id} fits {format_latency(limit)} at no width: next one taken")
            return None
        if fitting.width < trial.width:
            console.print(
                f"  {trial.id} narrowed from width {trial.width} to {fitting.width} to stay "
                f"within {format_latency(limit)} (measured {format_latency(milliseconds)})"
            )
        architecture = fitting
        model = replace(model, measured_before_training_ms=milliseconds)
    price = cost(architecture, run.budget.precision)
    run.put(
        replace(
            model,
            cell=architecture.cells[0],
            width=architecture.width,
            macs=price.macs,
            params=price.params,
            peak_memory_bytes=price.peak_memory_bytes,
            state="queued",
            target=_on_target(run, architecture),
        )
    )
    return Job(trial.id, architecture, Limits(), trial.seed, run.path / "models" / trial.id)


def _on_target(run: Run, architecture: Architecture) -> OnTarget | None:
    """What is known of a network on the run's target; None without a target."""
    name = target_name(run)
    if name is None:
        return None
    path = run.path / LATENCY_FILE
    if not (is_elsewhere(run) and path.is_file()):
        return OnTarget(name)
    cells = CellArrays.from_cells([architecture.cells[0]])
    p50, at_most = latency.load_model(path).quote(cells, architecture.width)[0]
    return OnTarget(name, Latency(p50, at_most=at_most), measured=False)


def _run_jobs(
    run: Run,
    dataset: Dataset,
    jobs: Sequence[Job],
    settings: Settings,
    workers: int,
    console: Console,
) -> None:
    recipe = settings.recipe
    images = len(dataset.y_train) - len(held_out(dataset))
    count = min(workers, len(jobs))
    text = (
        f"training {formatting.number(len(jobs), 'network')} "
        f"({', '.join(job.name for job in jobs)}) for "
        f"{formatting.number(recipe.epochs, 'epoch')} on "
        f"{images:,} images, {formatting.number(count, 'worker')}"
    )
    if torchrun.ranks() == 1:  # several processes take every step together
        if estimate.on_gpu(settings.device):
            text += f"; {estimate.UNKNOWN_ON_GPU}"
        else:
            step = [
                estimate.seconds_per_image(job.build(dataset), dataset, recipe, settings.device)
                for job in jobs
            ]
            seconds = [images * recipe.epochs * each for each in step]
            text += f": {estimate.side_by_side(seconds, count)}"
            # The longest first: begun last it would go on alone after all others.
            jobs = [jobs[one] for one in sorted(range(len(jobs)), key=lambda one: -seconds[one])]
    console.print(text)
    for job in jobs:
        put(run, job, state="running")
    train_side_by_side(
        jobs, settings, dataset, workers, console, lambda *result: _keep(run, *result)
    )


def _keep(run: Run, job: Job, outcome: Outcome) -> None:
    # A later command may train the others otherwise.
    recipe = run.setting("recipe", dict[str, Scalar], {})
    put(run, job, **outcome.stored(), recipe=recipe)
    if job.architecture is not None and outcome.accuracy is not None:
        write_cell(job.folder / "cell.json", job.architecture.cells[0])


def _planned_baseline(
    run: Run, dataset: Dataset, largest_batch: int, console: Console
) -> Job | None:
    """The strongest known network within the run's limits; None when it is trained."""
    planned = run.baselines()
    if any(entry.state in ("done", "failed") for entry in planned):
        return None
    if planned:
        return job_of(run, planned[0])
    found = known.strongest(run, dataset, largest_batch, console)
    if found is None:  # none of them can be made so small
        return None
    console.print(
        f"beside them {found.id}, as wide as the limits allow: {format_count(found.macs or 0)} "
        f"MACs, {format_count(found.params or 0)} params"
    )
    run.put(found)
    return job_of(run, found)


def _draw_mistakes(run: Run, dataset: Dataset) -> None:
    """The confusion matrix and the most confused images of the network that is recommended, or of
    the first one, for the report."""
    trained = [one for one in (*run.models(), *run.baselines()) if one.accuracy is not None]
    if not trained:
        return
    best = run.recommendation()
    first = trained[0] if best is None else find(best.id, run.path, trained)
    folder = run.path / "figures"
    if first.confusion:
        title = f"What {first.id} takes for what, on the test set"
        figure = plots.confusion_figure(first.confusion, dataset.class_names, title)
        plots.save(figure, folder / "confusion.png")
    if first.mistakes and dataset.input_shape[0] in (1, 3):
        images = [dataset.x_test[one.index] for one in first.mistakes]
        texts = [
            f"{dataset.class_names[one.label]}, taken for\n"
            f"{dataset.class_names[one.predicted]} ({100 * one.probability:.0f} %)"
            for one in first.mistakes
        ]
        title = f"Mistakes of {first.id} of most confidence"
        plots.save(plots.images_figure(images, texts, title), folder / "mistakes.png")


def _keep_mistakes(run: Run, dataset: Dataset) -> None:
    """The most confused images of each network side by side, in their order, for the page."""
    if dataset.input_shape[0] not in (1, 3):
        return
    for kind, networks in (("models", run.models()), ("baselines", run.baselines())):
        for network in networks:
            if network.mistakes:
                strip = np.hstack([dataset.x_test[one.index] for one in network.mistakes])
                write_bytes(run.path / kind / network.id / "mistakes.png", _png(strip))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """An image (h, w, c) of one or three channels as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def keep_examples(folder: Path, dataset: Dataset) -> None:
    """A few test images as files, for `predict` and the page to be tried with."""
    if dataset.input_shape[0] not in (1, 3) or (folder / "examples").is_dir():
        return
    for index in np.linspace(0, len(dataset.y_test) - 1, _EXAMPLES).astype(int):
        label = "".join(
            c if c.isalnum() else "-" for c in dataset.class_names[dataset.y_test[index]][:40]
        )
        write_bytes(folder / "examples" / f"{index:05d}-{label}.png", _png(dataset.x_test[index]))
