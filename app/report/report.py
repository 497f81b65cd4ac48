"""The report of a run: `report.md` with figures, and the same as one self-contained HTML file."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gemkit.budget import Budget, format_count, format_latency
from gemkit.cell import CellArrays
from gemkit.export.card import interval
from gemkit.records import (
    TEACHER_SETTING,
    Baseline,
    DataInfo,
    Limits,
    Model,
    Network,
    Recommendation,
    TeacherInfo,
    Trial,
)
from gemkit.search import encoder
from gemkit.store import Run

from .. import formatting
from ..formatting import count, percent
from ..projection import project
from ..runs import is_elsewhere
from . import cell_plots, document, plots


def write(run: Run) -> Path:
    """Draw a run's figures and write its report; returns the path of `report.md`."""
    return document.write(_blocks(run, draw(run)), f"gemkit: {run.name}", run.path)


def draw(run: Run) -> dict[str, str]:
    """Write the figures for which a run has what they show: name -> path relative to the run."""
    trials = run.trials()
    models = [model for model in run.models() if model.accuracy is not None]
    baselines = [one for one in run.baselines() if one.accuracy is not None]
    drawn: dict[str, str] = {}
    for name, figure in itertools.chain(
        _progress_figure(trials),
        _tradeoff_figures(run, trials, models, baselines),
        _prediction_figure(trials),
        _embedding_figures(run, trials),
        _network_figures(models, baselines),
    ):
        drawn[name] = f"{document.FIGURES}/{name}.png"
        plots.save(figure, run.path / drawn[name])
    for name in ("confusion", "mistakes"):  # drawn by the training, which has the images
        if (run.path / document.FIGURES / f"{name}.png").is_file():
            drawn[name] = f"{document.FIGURES}/{name}.png"
    return drawn


def _progress_figure(trials: Sequence[Trial]) -> Iterator[tuple[str, Figure]]:
    if trials:
        accuracies = [trial.accuracy for trial in trials]
        yield "progress", plots.progress_figure(accuracies, [trial.round for trial in trials])


def _tradeoff_figures(
    run: Run, trials: Sequence[Trial], models: Sequence[Model], baselines: Sequence[Baseline]
) -> Iterator[tuple[str, Figure]]:
    """Accuracy against MACs and against measured latency."""
    known = run.setting("data", DataInfo)
    data = known.name if known else ""

    def points(
        entries: Sequence[Trial | Network], cost: Callable[[Trial | Network], float | None]
    ) -> list[plots.Point]:
        return [
            plots.Point(entry.id, value, entry.accuracy)
            for entry in entries
            if entry.accuracy is not None and (value := cost(entry)) is not None
        ]

    if models or any(trial.accuracy is not None for trial in trials):
        limit = run.budget.macs
        yield (
            "macs",
            plots.tradeoff_figure(
                f"Accuracy against MACs: {data}",
                "million MACs",
                points(trials, _million_macs),
                points(models, _million_macs),
                points(baselines, _million_macs),
                None if limit is None else (limit / 1e6, f"budget {format_count(limit)} MACs"),
            ),
        )
    measured = points(models, _median_ms)
    if measured:
        elsewhere = is_elsewhere(run)  # then the limit and what is predicted are not of here
        most = None if elsewhere else run.budget.latency_ms
        yield (
            "latency",
            plots.tradeoff_figure(
                f"Accuracy against measured latency: {data}",
                "milliseconds (p50, batch 1, one thread, CPU)",
                [] if elsewhere else points(trials, _median_ms),
                measured,
                points(baselines, _median_ms),
                None if most is None else (most, f"budget {format_latency(most)}"),
            ),
        )


def _prediction_figure(trials: Sequence[Trial]) -> Iterator[tuple[str, Figure]]:
    """What the predictor said of the trials before they were trained."""
    predicted = [
        (trial.accuracy, known.mean, known.std)
        for trial in trials
        if trial.accuracy is not None and (known := trial.predicted) and known.std is not None
    ]
    if len(predicted) >= 3:
        measured, mean, deviation = np.array(predicted).T
        title = "Predicted and measured accuracy of the trials"
        yield "predicted", plots.predicted_figure(measured, mean, deviation, title)


def _embedding_figures(run: Run, trials: Sequence[Trial]) -> Iterator[tuple[str, Figure]]:
    """The trials in the embedding, by accuracy and by cost."""
    embedding = _embedding(run, trials)
    if embedding is None:
        return
    places = project(embedding)[0]
    accuracies = [np.nan if trial.accuracy is None else 100 * trial.accuracy for trial in trials]
    best = None if np.isnan(accuracies).all() else int(np.nanargmax(accuracies))
    yield (
        "embedding",
        plots.embedding_figure(
            places,
            accuracies,
            "The trials in the embedding",
            "accuracy on the proxy task (%)",
            best=best,
        ),
    )
    macs = [trial.macs / 1e6 for trial in trials]
    yield (
        "embedding_cost",
        plots.embedding_figure(places, macs, "The same trials by cost", "million MACs", best=best),
    )


def _network_figures(
    models: Sequence[Model], baselines: Sequence[Baseline]
) -> Iterator[tuple[str, Figure]]:
    """The learning curves of the final trainings, and the cells of the best networks."""
    curves = {entry.id: entry.curve for entry in (*models, *baselines) if entry.curve}
    if curves:
        yield "curves", plots.curves_figure(curves)
    cells = [
        (
            model.cell,
            f"{model.id}: {percent(model.accuracy)}, {count(model.macs)} MACs, "
            f"{count(model.params)} params",
        )
        for model in models[:4]
    ]
    if cells:
        yield "cells", cell_plots.best_cells_figure(cells)


def _million_macs(entry: Trial | Network) -> float | None:
    return None if entry.macs is None else entry.macs / 1e6


def _median_ms(entry: Trial | Network) -> float | None:
    return None if entry.latency_ms is None else entry.latency_ms.p50


def _embedding(run: Run, trials: Sequence[Trial]) -> np.ndarray[Any, Any] | None:
    """The run's encoder applied to its trials; None when there are too few or no encoder."""
    path = run.path / "encoder.safetensors"
    if len(trials) < 3 or not path.is_file():
        return None
    arrays = CellArrays.from_cells([trial.cell for trial in trials])
    vectors = encoder.embed(encoder.load_encoder(path), arrays.operations, arrays.adjacency)
    return np.asarray(vectors)


def _about_teacher(teacher: TeacherInfo) -> str:
    more = f", those of `{teacher.unlabelled}` without labels" if teacher.unlabelled else ""
    note = f" ({teacher.note})" if teacher.note else ""
    return (
        f"The networks learned from a larger one{note}, in {teacher.views} views of each of "
        f"{teacher.images:,} images{more}. {formatting.teacher_line(teacher)}. Its time is "
        "processor time for one image in PyTorch or onnxruntime, one thread, not measured beside "
        "the others."
    )


def _blocks(run: Run, drawn: Mapping[str, str]) -> list[str]:
    data = run.setting("data", DataInfo)
    budget = run.budget
    trials, models, baselines = run.trials(), run.models(), run.baselines()
    blocks: list[str] = [
        f"# gemkit: {run.name}",
        _summary(run, data, (*models, *baselines)),
    ]
    if data and data.note:
        blocks.append(f"About the data: {data.note}.")
    if "macs" in drawn:
        blocks.append(document.picture(drawn["macs"], "accuracy against MACs"))
    if models or baselines:
        rows = [formatting.network_row(entry) for entry in (*models, *baselines)]
        teacher = run.setting(TEACHER_SETTING, TeacherInfo)
        if teacher is not None:
            rows.append(formatting.teacher_row(teacher))
        blocks += [
            "## Networks",
            document.table(formatting.MODEL_HEADS, rows),
            *([] if teacher is None else [_about_teacher(teacher)]),
            _model_notes(data, models, baselines, budget, run.recommendation()),
        ]
        there = [
            f"`{model.id}`: {text}." for model in models if (text := formatting.on_target(model))
        ]
        if there:
            blocks.append("On the device searched for. " + " ".join(there))
        files = [
            f"`{one.id}`: {_links(run, Path(one.onnx).parent)}"
            for one in (*models, *baselines)
            if one.onnx
        ]
        if files:
            fastest = [
                f"`{id}`: {formatting.fastest_file(best)}."
                for id, best in run.fastest_files().items()
            ]
            blocks.append(" ".join(["Files.", *(f"{line}." for line in files), *fastest]))
    for name, text in (
        ("latency", "accuracy against latency"),
        ("cells", "the cells of the best networks"),
        ("curves", "training loss by epoch"),
        ("confusion", "confusion matrix of the best network"),
        ("mistakes", "its mistakes of most confidence"),
    ):
        if name in drawn:
            blocks.append(document.picture(drawn[name], text))
    if trials:
        done = [trial for trial in trials if trial.accuracy is not None]
        failed = [trial for trial in trials if trial.state == "failed"]
        text = (
            f"{formatting.number(len(done), 'trial')} in "
            f"{formatting.number(len({trial.round for trial in trials}), 'round')}, "
            f"strategy `{run.config.get('strategy')}`; an accuracy here is on the validation part "
            "of the proxy task, which has no image of the test set."
        )
        if failed:
            text += f" {formatting.number(len(failed), 'trial')} failed and count as infeasible."
        blocks += ["## The search", text]
        for name, caption in (
            ("progress", "accuracy of the trials in order"),
            ("predicted", "predicted against measured accuracy"),
            ("embedding", "map of the embedding by accuracy"),
            ("embedding_cost", "map of the embedding by cost"),
        ):
            if name in drawn:
                blocks.append(document.picture(drawn[name], caption))
        best = formatting.best_trials(trials)[:10]
        blocks.append("The ten best trials:" if len(trials) > 10 else "The trials:")
        blocks.append(
            document.table(formatting.TRIAL_HEADS, [formatting.trial_row(trial) for trial in best])
        )
    blocks += _reproduction(run, (*models, *baselines))
    return blocks


def _links(run: Run, folder: Path) -> str:
    """Links to a network's files; the folder is relative to the run."""
    names = (
        "model.onnx",
        "model.fp16.onnx",
        "model.int8.onnx",
        "cell.json",
        "cell.png",
        "card.md",
        "bench.json",
        "weights.safetensors",
    )
    return ", ".join(
        f"[{name}]({(folder / name).as_posix()})"
        for name in names
        if (run.path / folder / name).is_file()
    )


def _summary(run: Run, data: DataInfo | None, networks: Sequence[Network]) -> str:
    delivered = [network for network in networks if network.onnx]
    name = data.name if data else run.config.get("data")
    text = f"Data: {name}. Budget: {run.budget.describe()}."
    if not delivered:
        return text + " No network was delivered yet."
    text += f" {formatting.number(len(delivered), 'network')} delivered."
    recommendation = run.recommendation()
    if recommendation is not None:
        line = formatting.recommendation_line(recommendation)
        return f"{text} {line[0].upper()}{line[1:]}."
    first = delivered[0]
    text += (
        f" The one that the search ranks first, `{first.id}`, reaches {percent(first.accuracy)} on "
        f"the test set with {count(first.macs)} MACs and {count(first.params)} params"
    )
    if first.latency_ms:
        text += f", {formatting.latency(first.latency_ms)} an image here"
    return text + "."


def _within(limits: Limits) -> str:
    """What a known network was made to fit, as a part of a sentence."""
    given = [
        f"{format_count(value)} {unit}"
        for value, unit in ((limits.max_macs, "MACs"), (limits.max_params, "parameters"))
        if value is not None
    ]
    return " and ".join(given) + " allow" if given else "it is published"


def _model_notes(
    data: DataInfo | None,
    models: Sequence[Model],
    baselines: Sequence[Baseline],
    budget: Budget,
    recommendation: Recommendation | None,
) -> str:
    trained = [one for one in (*models, *baselines) if one.accuracy is not None]
    first = next((one for one in trained if recommendation and one.id == recommendation.id), None)
    first = first or next(iter(trained), None)
    images = data.test if data else None
    text = (
        "Found networks stand in the order of the search. The hold-out, images that no final "
        "training saw, decides which network is recommended. "
        "The test set was used once for each, after training, and decides nothing."
    )
    if first and baselines:
        text += (
            f" The known network is as wide as {_within(baselines[0].limits)}; it was the best of "
            "a few after a trial each."
        )
    if first and first.accuracy is not None and images:
        low, high = interval(first.accuracy, images)
        text += (
            f" With {images} test images the 95 % interval of `{first.id}` is "
            f"{percent(low, 1)} to {percent(high, 1)}."
        )
    return (
        text + " MACs are multiply-accumulates of convolutions and linear layers as fvcore counts "
        "them, without batch norm, which is folded away at export. Peak memory is that of "
        f"activations at batch 1 in {budget.precision}. Latency: onnxruntime, CPU, one thread, "
        "batch 1. Parity: largest difference between onnxruntime and PyTorch."
    )


def _reproduction(run: Run, trained: Sequence[Network]) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in run.info.machine.items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in run.info.versions.items())
    commands = run.setting("commands", list[str], [])
    blocks: list[str] = ["## How it was made"]
    if commands:
        blocks.append(document.code("\n".join(commands)))
    general = run.setting("recipe", dict[str, Any], {})
    recipes: dict[str, list[str]] = {}
    for entry in trained:
        if recipe := entry.recipe or general:
            text = ", ".join(f"{name} {value}" for name, value in recipe.items())
            recipes.setdefault(text, []).append(entry.id)
    for text, ids in recipes.items():
        of = "the same for every network and baseline" if len(recipes) == 1 else ", ".join(ids)
        blocks.append(f"Final training, {of}: {text}.")
    blocks.append(
        f"Seed {run.seed}. Begun {run.info.created[:19].replace('T', ' ')} UTC. "
        f"Machine: {machine}. Versions: {versions}."
    )
    return blocks
