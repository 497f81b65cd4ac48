"""Export as a step: trained networks to checked ONNX files within the budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gemkit import __version__
from gemkit.budget import format_latency
from gemkit.cost import count_with_fvcore
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.files import write_bytes
from gemkit.store import Run

from . import tables
from .jobs import (
    Job,
    baseline_job,
    data_of,
    model_job,
    open_run,
    put,
    restored,
)
from .progress import bar, default_console

if TYPE_CHECKING:
    pass


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
    with open_run(run) as opened:
        models = _chosen_models(opened, ids)
        dataset = load(data_of(opened))
        entries = [
            (model_job(opened, model), model)
            for model in models
            if not (model["onnx"] and (opened.path / model["onnx"]).is_file())
        ]
        for entry in opened.baselines():
            path = entry["onnx"]
            if entry["accuracy"] is not None and not (path and (opened.path / path).is_file()):
                entries.append((baseline_job(opened, entry), entry))
        for job, _ in entries:
            job.check_weights()
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


def files_of(path: Path) -> list[Path]:
    """The ONNX files beside a model's, its own first."""
    return [path, *(other for other in sorted(path.parent.glob("*.onnx")) if other != path)]


def _copy(path: Path, id: str, out: Path) -> None:
    for file in files_of(path):
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
        known_accuracy=entry["accuracy"],
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
    if (there := tables.on_target(entry)) is not None:
        text += f", {there}"
    elif job.architecture is not None and budget.latency_ms is not None:
        milliseconds = latency_ms([path])[0]
        if milliseconds > budget.latency_ms:  # once more, longer: the machine may have been busy
            milliseconds = latency_ms([path], rounds=15, seconds=0.4)[0]
        text += f", {format_latency(milliseconds)}"
        if milliseconds > budget.latency_ms:
            path.unlink()
            reason = f"measured {format_latency(milliseconds)} when it was exported"
            values = {"onnx": None, "state": "failed", "error": reason}
            text += ": over the budget, not delivered"
    put(run, job, **values)
    if job.architecture is not None:
        _draw(run, job, entry)
    console.print(text)


def _draw(run: Run, job: Job, entry: Mapping[str, Any]) -> None:
    from . import figures, show

    assert job.architecture is not None
    cell = job.architecture.cells[0]
    figure = figures.cell_figure(cell, f"Cell {job.name}", show.describe(dict(entry), cell))
    figures.save(figure, job.folder / "cell.png")
