"""Export as a step: trained networks to checked ONNX files within the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gemkit import __version__
from gemkit.budget import PRECISIONS, format_latency
from gemkit.cost import count_with_fvcore
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.export.benchmark import latency_ms
from gemkit.files import write_bytes
from gemkit.store import Run

from .. import formatting
from ..terminal.progress import bar, default_console
from .networks import (
    Job,
    baseline_job,
    data_of,
    is_elsewhere,
    model_job,
    open_run,
    put,
    restored,
)

if TYPE_CHECKING:
    from gemkit.export.exporter import Exported


def export(
    run: Run | Path | str,
    ids: Sequence[str] = (),
    *,
    precision: Sequence[str] = ("fp32",),
    optimize: str | None = None,
    out: Path | str | None = None,
    input: str = "float",
    softmax: bool = False,
    opset: int | None = None,
    batch: int | None = None,
    console: Console | None = None,
    hint: bool = True,
) -> list[dict[str, Any]]:
    """Write the trained networks of a run as ONNX files that were checked and fit the budget.

    Each file is compared with PyTorch, its network counted by fvcore and, where the budget limits
    latency, measured; what does not hold is not delivered. Files that are there are left alone.

    The run's own files take normalised float images, in batches of any size, and give logits.
    Where anything else is asked for, the files go to `out` only.

    Args:
        ids: only these models.
        precision: fp32 is always written; fp16 and int8 come from it, as `model.fp16.onnx` and
            `model.int8.onnx`, int8 calibrated on training images. That of the run's budget is
            written as well.
        optimize: "latency" or "memory": also write `model.optimized.onnx`, the fp32 graph
            rewritten as measurements on this machine (or the peak memory) tell, and what
            `precision` asks for from that.
        out: also copy the files and their cards to this folder, as `ID.onnx`, `ID.int8.onnx` and
            so on; by default `deploy` in the run where the files differ from its own.
        input: "uint8" for files that take the pixels (batch, h, w, c) and normalise themselves.
        softmax: files that give probabilities.
        opset: of `gemkit.export.exporter.OPSETS`, by default the oldest.
        batch: a fixed batch size, for compilers that need one.

    Returns:
        the models, under the names that programs read; `files` says what was made now.

    Raises:
        UserError: no run, no such model, nothing trained yet, or an option is not possible.
    """
    from gemkit.export.exporter import DEFAULT_OPSET, check_options

    console = console or default_console()
    form = Form(input == "uint8", softmax, batch, opset or DEFAULT_OPSET)
    check_options(form.batch, form.opset)
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
                f"exporting {formatting.number(len(entries), 'network')}: a few seconds each"
            )
        with bar(console, "networks exported", len(entries)) as advance:
            for index, (job, entry) in enumerate(entries):
                _export_one(opened, job, entry, dataset, console)
                advance(completed=index + 1)
        _note_memory(opened)
        chosen = {model["id"] for model in models}
        kinds = tuple(dict.fromkeys([*precision, opened.budget.precision]))
        folder = None if out is None else Path(out)
        if form != Form() and folder is None:
            folder = opened.path / "deploy"
        made: dict[str, list[dict[str, Any]]] = {}
        for model in opened.models():
            if model["id"] not in chosen or not model["onnx"]:
                continue
            path = opened.path / model["onnx"]
            if form != Form():
                assert folder is not None
                path = folder / f"{model['id']}.onnx"
                file = _export_as(opened, model, dataset, form, path, console)
            else:
                file = {"onnx": str(path), "precision": "fp32", "accuracy": model["accuracy"]}
            made[model["id"]] = [file, *convert(path, kinds, optimize, dataset, console)]
            if form == Form() and not _fits_converted(opened, model, path, console):
                continue
            if folder is not None:
                if form == Form():
                    _copy(path, model["id"], folder)
                # The run's measurements are those of a file that was copied, not made anew.
                anew = [Path(one["onnx"]) for one in made[model["id"]][1:]]
                measured = [
                    one
                    for one in model["measurements"] or ()
                    if form == Form() and opened.path / one["onnx"] not in anew
                ]
                _card_beside(opened, model, folder, measured)
        delivered = [model for model in opened.models() if model["id"] in chosen]
        if folder is not None:
            console.print(f"files: {folder}")
        if hint:
            measurable = opened.path if folder is None else f"{folder}/*.onnx"
            console.print(f"next: gemkit bench {measurable}")
        return [{**model, "files": made.get(model["id"], [])} for model in delivered]


def _note_memory(run: Run) -> None:
    """Store the peak activation memory of the baselines, traced from their files."""
    from gemkit.export.schedule import peak_of_file

    for entry in run.baselines():
        path = entry["onnx"]
        if entry["peak_memory_bytes"] is None and path and (run.path / path).is_file():
            size = peak_of_file(run.path / path) * PRECISIONS[run.budget.precision] // 4
            run.put_baseline(entry["id"], peak_memory_bytes=size)


@dataclass(frozen=True)
class Form:
    """What goes in and out of a file; the defaults are those of a run's own files."""

    preprocessing: bool = False
    softmax: bool = False
    batch: int | None = None
    opset: int = 18


def _export_as(
    run: Run, model: Mapping[str, Any], dataset: Dataset, form: Form, path: Path, console: Console
) -> dict[str, Any]:
    """Write a model in another form than the run's own file."""
    exported = _written(run, model_job(run, model), model, dataset, path, form)
    console.print(
        f"  {path.name}: {formatting.size(exported.file_bytes)}, "
        f"{'uint8 pixels' if form.preprocessing else 'normalised images'} in, "
        f"{'probabilities' if form.softmax else 'logits'} out, batch "
        f"{form.batch or 'of any size'}, opset {form.opset}, parity "
        f"{exported.parity_max_abs:.1e}, accuracy of the file "
        f"{formatting.percent(exported.accuracy)}"
    )
    return {**exported.to_json(), "precision": "fp32"}


def _fits_converted(run: Run, model: Mapping[str, Any], path: Path, console: Console) -> bool:
    """Measure the file that a latency budget in another precision than fp32 means."""
    budget = run.budget
    if budget.latency_ms is None or budget.precision == "fp32" or is_elsewhere(run):
        return True
    file = path.with_name(f"model.{budget.precision}.onnx")
    milliseconds = latency_ms([file])[0]
    if milliseconds <= budget.latency_ms:
        return True
    for written in files_of(path):
        written.unlink()
    reason = f"measured {format_latency(milliseconds)} in {budget.precision} when it was exported"
    run.put_model(model["id"], onnx=None, state="failed", error=reason)
    console.print(f"  {model['id']}: {reason}: over the budget, not delivered")
    return False


def convert(
    path: Path,
    precision: Sequence[str],
    optimize: str | None,
    dataset: Dataset | None,
    console: Console,
) -> list[dict[str, Any]]:
    """Write a file's optimised form and other precisions of both, where asked for.

    Args:
        dataset: images that other precisions are made and judged on.

    Returns:
        what was written.
    """
    from gemkit.export import optimize as optimizer

    sources, made = [path], []
    id = path.parent.name if path.stem == "model" else path.stem
    if optimize is not None:
        better = path.with_name(f"{path.stem}.optimized.onnx")
        report = optimizer.optimize_file(path, better, objective=optimize)
        before, after = report.peak_memory_bytes
        console.print(
            f"  {id} optimised for {optimize}: {report.speedup:.2f} times as fast, peak memory "
            f"{formatting.size(before)} -> {formatting.size(after)}; applied: "
            f"{', '.join(report.applied) or 'nothing, since nothing paid'}",
        )
        made.append({"onnx": str(better), "precision": "fp32", **report.to_json()})
        if report.applied:
            sources.append(better)
    for source in sources:
        for kind in precision:
            if kind != "fp32":
                assert dataset is not None
                made.append(_in_precision(source, kind, id, dataset, console))
    return made


def _in_precision(
    source: Path, kind: str, id: str, dataset: Dataset, console: Console
) -> dict[str, Any]:
    from gemkit.export import quantize

    test = (dataset.x_test, dataset.y_test)
    target = source.with_name(f"{source.stem}.{kind}.onnx")
    optimised = source.stem.endswith(".optimized")
    text = f"{id} {kind}" + (" optimised" if optimised else "")
    with bar(console, text, 100) as advance:
        if kind == "fp16":
            found = quantize.to_fp16(source, target, test=test)
        else:
            found = quantize.to_int8(
                source,
                target,
                training=(dataset.x_train, dataset.y_train),
                test=test,
                progress=lambda share: advance(completed=int(100 * share)),
            )
    console.print(
        f"  {text}: {formatting.percent(found.accuracy)} "
        f"(fp32 {formatting.percent(found.reference_accuracy)}), "
        f"{formatting.size(found.file_bytes)} (fp32 {formatting.size(found.reference_bytes)}), "
        f"{found.speedup:.2f} times as fast as {'that in fp32' if optimised else 'fp32'}"
    )
    for note in found.notes:
        console.print(f"    {note}")
    return found.to_json()


def files_of(path: Path) -> list[Path]:
    """A model's ONNX file and those made of it, which begin with its name."""
    others = sorted(path.parent.glob(f"{path.stem}.*.onnx"))
    return [path, *(other for other in others if other != path)]


def _card_beside(
    run: Run, model: Mapping[str, Any], folder: Path, measured: Sequence[Mapping[str, Any]]
) -> None:
    """The card of the files that were put into a folder, with what was measured of these files."""
    from .bench import write_model_card

    id = model["id"]
    write_model_card(run, model, folder / f"{id}.onnx", folder / f"{id}.card.md", measured)


def _copy(path: Path, id: str, out: Path) -> None:
    for file in files_of(path):
        write_bytes(out / file.name.replace("model", id, 1), file.read_bytes())


def _chosen_models(run: Run, ids: Sequence[str]) -> list[dict[str, Any]]:
    from ..terminal import show

    trained = [model for model in run.models() if model["accuracy"] is not None]
    if not trained:
        raise UserError(f"{run.path} has no trained network: run `gemkit train {run.path}` first")
    if not ids:
        return [model for model in trained if model["state"] == "done"]
    content = {"models": trained, "trials": []}
    return [show.find(content, id, run.path) for id in dict.fromkeys(ids)]


def _written(
    run: Run, job: Job, entry: Mapping[str, Any], dataset: Dataset, path: Path, form: Form
) -> "Exported":
    """Write a trained network's fp32 file; fvcore counts it first."""
    from gemkit.export.exporter import export_onnx

    network = restored(job, dataset)
    budget = run.budget
    macs, params = count_with_fvcore(network, dataset.input_shape)
    if job.architecture is not None:
        for what, limit, found in (("MACs", budget.macs, macs), ("params", budget.params, params)):
            if limit is not None and found > limit:
                raise RuntimeError(f"{job.name} has {found} {what}, the budget is {limit}")
    return export_onnx(
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
        preprocessing=form.preprocessing,
        softmax=form.softmax,
        batch=form.batch,
        opset=form.opset,
        seed=run.seed,
    )


def _export_one(
    run: Run, job: Job, entry: Mapping[str, Any], dataset: Dataset, console: Console
) -> None:
    budget = run.budget
    path = job.folder / "model.onnx"
    exported = _written(run, job, entry, dataset, path, Form())
    values: dict[str, Any] = {
        "onnx": str(path.relative_to(run.path)),
        "parity_max_abs": exported.parity_max_abs,
    }
    text = (
        f"  {job.name}: {exported.file_bytes / 1000:.0f} kB, parity "
        f"{exported.parity_max_abs:.1e}, accuracy of the file "
        f"{formatting.percent(exported.accuracy)}"
    )
    if (there := formatting.on_target(entry)) is not None:
        text += f", {there}"
    elif job.architecture is not None and budget.latency_ms and budget.precision == "fp32":
        milliseconds = latency_ms([path])[0]
        text += f", {format_latency(milliseconds)}"
        if milliseconds > budget.latency_ms:
            path.unlink()
            reason = f"measured {format_latency(milliseconds)} when it was exported"
            values = {"onnx": None, "state": "failed", "error": reason}
            text += ": over the budget, not delivered"
    put(run, job, **values)
    if job.architecture is not None:
        _draw(job, entry)
    console.print(text)


def _draw(job: Job, entry: Mapping[str, Any]) -> None:
    from ..report import cell_plots, plots
    from ..terminal import show

    assert job.architecture is not None
    cell = job.architecture.cells[0]
    text = show.describe(dict(entry), cell)
    figure = cell_plots.cell_figure(cell, f"Cell {job.name}", text)
    plots.save(figure, job.folder / "cell.png")
