"""The report of a run: `report.md` with figures, and the same as one self-contained HTML file."""

import base64
import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gemkit.budget import Budget, format_count, format_latency
from gemkit.cell import Cell, CellArrays
from gemkit.export.card import interval
from gemkit.files import write_text
from gemkit.search import encoder
from gemkit.store import Run

from .. import formatting
from ..formatting import percent
from ..projection import project
from ..runs import is_elsewhere
from . import cell_plots, plots

FIGURES = "figures"


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    path: str
    text: str


Block = Heading | Paragraph | Code | Table | Picture


def write(run: Run) -> Path:
    """Draw a run's figures and write its report; returns the path of `report.md`."""
    blocks = _blocks(run, run.to_json(), draw(run))
    path = run.path / "report.md"
    write_text(path, markdown(blocks))
    write_text(run.path / "report.html", page(blocks, f"gemkit: {run.name}", run.path))
    return path


def draw(run: Run) -> dict[str, str]:
    """Write the figures for which a run has what they show: name -> path relative to the run."""
    content = run.to_json()
    finished = {
        kind: [entry for entry in content[kind] if entry["accuracy"] is not None]
        for kind in ("trials", "models", "baselines")
    }
    drawn: dict[str, str] = {}
    for name, figure in itertools.chain(
        _progress_figure(content["trials"]),
        _tradeoff_figures(run, finished),
        _prediction_figure(finished["trials"]),
        _embedding_figures(run, content["trials"]),
        _network_figures(finished),
    ):
        drawn[name] = f"{FIGURES}/{name}.png"
        plots.save(figure, run.path / drawn[name])
    for name in ("confusion", "mistakes"):  # drawn by the training, which has the images
        if (run.path / FIGURES / f"{name}.png").is_file():
            drawn[name] = f"{FIGURES}/{name}.png"
    return drawn


def _progress_figure(trials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    if trials:
        accuracies = [trial["accuracy"] for trial in trials]
        yield "progress", plots.progress_figure(accuracies, [trial["round"] for trial in trials])


def _tradeoff_figures(
    run: Run, finished: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[str, Figure]]:
    """Accuracy against MACs and against measured latency."""
    data = run.setting("data", {}).get("name", "")

    def points(kind: str, cost: str, scale: float = 1.0) -> list[plots.Point]:
        return [
            plots.Point(entry["id"], value / scale, entry["accuracy"])
            for entry in finished[kind]
            if (value := _cost(entry, cost)) is not None
        ]

    if finished["trials"] or finished["models"]:
        limit = run.budget.macs
        yield (
            "macs",
            plots.tradeoff_figure(
                f"Accuracy against MACs: {data}",
                "million MACs",
                points("trials", "macs", 1e6),
                points("models", "macs", 1e6),
                points("baselines", "macs", 1e6),
                None if limit is None else (limit / 1e6, f"budget {format_count(limit)} MACs"),
            ),
        )
    models = points("models", "latency_ms")
    if models:
        elsewhere = is_elsewhere(run)  # then the limit and what is predicted are not of here
        most = None if elsewhere else run.budget.latency_ms
        yield (
            "latency",
            plots.tradeoff_figure(
                f"Accuracy against measured latency: {data}",
                "milliseconds (p50, batch 1, one thread, CPU)",
                [] if elsewhere else points("trials", "latency_ms"),
                models,
                points("baselines", "latency_ms"),
                None if most is None else (most, f"budget {format_latency(most)}"),
            ),
        )


def _prediction_figure(trials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """What the predictor said of the trials before they were trained."""
    predicted = [
        (trial["accuracy"], known["mean"], known["std"])
        for trial in trials
        if (known := trial["extra"].get("predicted")) and known.get("std") is not None
    ]
    if len(predicted) >= 3:
        measured, mean, deviation = np.array(predicted).T
        title = "Predicted and measured accuracy of the trials"
        yield "predicted", plots.predicted_figure(measured, mean, deviation, title)


def _embedding_figures(
    run: Run, trials: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Figure]]:
    """The trials in the embedding, by accuracy and by cost."""
    embedding = _embedding(run)
    if embedding is None:
        return
    places = project(embedding)[0]
    accuracies = [
        np.nan if trial["accuracy"] is None else 100 * trial["accuracy"] for trial in trials
    ]
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
    macs = [trial["macs"] / 1e6 for trial in trials]
    yield (
        "embedding_cost",
        plots.embedding_figure(places, macs, "The same trials by cost", "million MACs", best=best),
    )


def _network_figures(
    finished: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[tuple[str, Figure]]:
    """The learning curves of the final trainings, and the cells of the best networks."""
    models = finished["models"]
    curves = {
        entry["id"]: entry["extra"]["curve"]
        for entry in (*models, *finished["baselines"])
        if (entry["extra"] or {}).get("curve")
    }
    if curves:
        yield "curves", plots.curves_figure(curves)
    cells = [
        (
            Cell.from_json(model["cell"]),
            f"{model['id']}: {percent(model['accuracy'])}, {format_count(model['macs'])} MACs, "
            f"{format_count(model['params'])} params",
        )
        for model in models[:4]
    ]
    if cells:
        yield "cells", cell_plots.best_cells_figure(cells)


def _cost(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry[name]
    return (value or {}).get("p50") if name == "latency_ms" else value


def _embedding(run: Run) -> np.ndarray[Any, Any] | None:
    """The run's encoder applied to its trials; None when there are too few or no encoder."""
    trials = run.trials()
    path = run.path / "encoder.safetensors"
    if len(trials) < 3 or not path.is_file():
        return None
    arrays = CellArrays.from_cells([trial.cell for trial in trials])
    vectors = encoder.embed(encoder.load_encoder(path), arrays.operations, arrays.adjacency)
    return np.asarray(vectors)


def _blocks(run: Run, content: Mapping[str, Any], drawn: Mapping[str, str]) -> list[Block]:
    data = run.setting("data", {})
    budget = run.budget
    trials, models, baselines = content["trials"], content["models"], content["baselines"]
    blocks: list[Block] = [Heading(f"gemkit: {run.name}", 1), Paragraph(_summary(run, content))]
    if data.get("note"):
        blocks.append(Paragraph(f"About the data: {data['note']}."))
    if "macs" in drawn:
        blocks.append(Picture(drawn["macs"], "accuracy against MACs"))
    if models:
        blocks += [
            Heading("Networks"),
            Table(
                formatting.MODEL_HEADS,
                [formatting.model_row(entry) for entry in (*models, *baselines)],
            ),
            Paragraph(_model_notes(run, data, budget)),
        ]
        there = [
            f"`{model['id']}`: {text}." for model in models if (text := formatting.on_target(model))
        ]
        if there:
            blocks.append(Paragraph("On the device searched for. " + " ".join(there)))
        files = [
            f"`{model['id']}`: {_links(run, model['id'])}" for model in models if model["onnx"]
        ]
        if files:
            blocks.append(Paragraph("Files. " + " ".join(f"{line}." for line in files)))
    for name, text in (
        ("latency", "accuracy against latency"),
        ("cells", "the cells of the best networks"),
        ("curves", "training loss by epoch"),
        ("confusion", "confusion matrix of the first network"),
        ("mistakes", "its mistakes of most confidence"),
    ):
        if name in drawn:
            blocks.append(Picture(drawn[name], text))
    if trials:
        done = [trial for trial in trials if trial["accuracy"] is not None]
        failed = [trial for trial in trials if trial["state"] == "failed"]
        text = (
            f"{formatting.number(len(done), 'trial')} in "
            f"{formatting.number(len({trial['round'] for trial in trials}), 'round')}, "
            f"strategy `{run.config.get('strategy')}`; an accuracy here is on the validation part "
            "of the proxy task, which has no image of the test set."
        )
        if failed:
            text += f" {formatting.number(len(failed), 'trial')} failed and count as infeasible."
        blocks += [Heading("The search"), Paragraph(text)]
        for name, caption in (
            ("progress", "accuracy of the trials in order"),
            ("predicted", "predicted against measured accuracy"),
            ("embedding", "map of the embedding by accuracy"),
            ("embedding_cost", "map of the embedding by cost"),
        ):
            if name in drawn:
                blocks.append(Picture(drawn[name], caption))
        best = formatting.best_trials(trials)[:10]
        blocks.append(Paragraph("The ten best trials:" if len(trials) > 10 else "The trials:"))
        blocks.append(
            Table(formatting.TRIAL_HEADS, [formatting.trial_row(trial) for trial in best])
        )
    blocks += _reproduction(run, content)
    return blocks


def _links(run: Run, id: str) -> str:
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
        f"[{name}](models/{id}/{name})"
        for name in names
        if (run.path / "models" / id / name).is_file()
    )


def _summary(run: Run, content: Mapping[str, Any]) -> str:
    data = run.setting("data", {})
    delivered = [model for model in content["models"] if model["onnx"]]
    text = f"Data: {data.get('name', run.config.get('data'))}. Budget: {run.budget.describe()}."
    if not delivered:
        return text + " No network was delivered yet."
    first = delivered[0]
    text += (
        f" {formatting.number(len(delivered), 'network')} delivered; the one that the search ranks "
        f"first, `{first['id']}`, reaches {percent(first['accuracy'])} on the test set with "
        f"{format_count(first['macs'])} MACs and {format_count(first['params'])} params"
    )
    if first["latency_ms"]:
        text += f", {formatting.latency(first['latency_ms'])} an image here"
    return text + "."


def _model_notes(run: Run, data: Mapping[str, Any], budget: Budget) -> str:
    first = next((model for model in run.models() if model["accuracy"] is not None), None)
    images = data.get("test")
    text = (
        "Networks stand in the order of the search (by validation accuracy, not by test accuracy); "
        "the test set was used once for each, after training."
    )
    if first and run.baselines():
        text += (
            f" The known network is as wide as the MACs and parameters of `{first['id']}` allow, "
            "whichever of them ends it first."
        )
    if first and images:
        low, high = interval(first["accuracy"], images)
        text += (
            f" With {images} test images the 95 % interval of `{first['id']}` is "
            f"{percent(low, 1)} to {percent(high, 1)}."
        )
    return (
        text + " MACs are multiply-accumulates of convolutions and linear layers as fvcore counts "
        "them, without batch norm, which is folded away at export. Peak memory is that of "
        f"activations at batch 1 in {budget.precision}. Latency: onnxruntime, CPU, one thread, "
        "batch 1. Parity: largest difference between onnxruntime and PyTorch."
    )


def _reproduction(run: Run, content: Mapping[str, Any]) -> list[Block]:
    about = content["run"]
    machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    commands = run.setting("commands", [])
    blocks: list[Block] = [Heading("How it was made")]
    if commands:
        blocks.append(Code("\n".join(commands)))
    trained = [*content["models"], *content["baselines"]]
    recipes: dict[str, list[str]] = {}
    for entry in trained:
        if recipe := (entry["extra"] or {}).get("recipe") or run.setting("recipe"):
            text = ", ".join(f"{name} {value}" for name, value in recipe.items())
            recipes.setdefault(text, []).append(entry["id"])
    for text, ids in recipes.items():
        of = "the same for every network and baseline" if len(recipes) == 1 else ", ".join(ids)
        blocks.append(Paragraph(f"Final training, {of}: {text}."))
    blocks.append(
        Paragraph(
            f"Seed {about['seed']}. Begun {about['created'][:19].replace('T', ' ')} UTC. "
            f"Machine: {machine}. Versions: {versions}."
        )
    )
    return blocks


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Paragraph(text):
                parts.append(text)
            case Code(text):
                parts.append(f"```\n{text}\n```")
            case Picture(path, text):
                parts.append(f"![{text}]({path})")
            case Table(heads, rows):
                lines = [heads, ["---"] * len(heads), *rows]
                parts.append(
                    "\n".join(
                        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                        for line in lines
                    )
                )
    return "\n\n".join(parts) + "\n"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22303c; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #e4e8ec;
  white-space: nowrap; }
th { color: #5b6772; font-weight: 600; }
img { max-width: 100%; height: auto; margin: .5rem 0; }
pre, code { background: #f3f5f7; border-radius: 4px; padding: .1rem .3rem; }
pre { padding: .8rem; overflow-x: auto; } a { color: #2f74c0; }
"""


def page(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """The blocks as one HTML file with its pictures inside.

    Args:
        folder: where the pictures' paths begin.
    """
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"<h{level}>{_inline(text)}</h{level}>")
            case Paragraph(text):
                parts.append(f"<p>{_inline(text)}</p>")
            case Code(text):
                parts.append(f"<pre>{html.escape(text)}</pre>")
            case Picture(path, text):
                data = base64.b64encode((folder / path).read_bytes()).decode()
                parts.append(
                    f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'
                )
            case Table(heads, rows):
                head = "".join(f"<th>{_inline(cell)}</th>" for cell in heads)
                body = "".join(
                    f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>"
                    for row in rows
                )
                parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _inline(text: str) -> str:
    escaped = html.escape(text)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    # Links to files of the run alone: names of data and classes are somebody else's text.
    return re.sub(r"\[([^\]]+)\]\((models/[^)]+)\)", r'<a href="\2">\1</a>', escaped)
