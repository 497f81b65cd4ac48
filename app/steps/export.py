"""`gemkit export`: a run's trained networks as checked ONNX files within the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit import __version__
from gemkit.budget import PRECISIONS, format_latency
from gemkit.cost import count_with_fvcore
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.export.benchmark import latency_ms
from gemkit.export.exporter import Exported, check_options, export_onnx
from gemkit.export.onnx_builder import DEFAULT_OPSET
from gemkit.export.schedule import peak_of_file
from gemkit.files import write_bytes
from gemkit.records import Baseline, Measurement, Model
from gemkit.store import Run

from .. import formatting, run_data
from ..hints import command
from ..report import cell_plots, plots
from ..runs import find, is_elsewhere, opened
from ..terminal.progress import bar, default_console
from .cards import write_network_card
from .convert import convert, entry_of, files_of
from .export_c import microcontroller_of, projects
from .networks import Job, job_of, put, restored


@dataclass(frozen=True)
class Form:
    """What goes in and out of a file; the defaults are those of a run's own files."""

    preprocessing: bool = False
    softmax: bool = False
    batch: int | None = None
    opset: int = DEFAULT_OPSET


@dataclass(frozen=True)
class Delivery:
    """What an export has written.

    Attributes:
        networks: those that were asked for, the found ones first.
        files: what was made now, by the network's id, under the names that programs read.
        folder: where their files went besides the run; None where they went nowhere else.
    """

    networks: tuple[Model | Baseline, ...]
    files: Mapping[str, Sequence[Mapping[str, Any]]]
    folder: Path | None

    def to_json(self) -> list[dict[str, Any]]:
        """The networks, each with its `files`, under the names that programs read."""
        return [
            {**network.to_json(), "files": list(self.files.get(network.id, ()))}
            for network in self.networks
        ]


def export(
    run: Run | Path | str,
    ids: Sequence[str] = (),
    *,
    dataset: Dataset | None = None,
    precision: Sequence[str] = ("fp32",),
    optimize: str | None = None,
    out: Path | str | None = None,
    input: str = "float",
    softmax: bool = False,
    opset: int | None = None,
    batch: int | None = None,
    format: str = "onnx",
    data: str | None = None,
    console: Console | None = None,
) -> Delivery:
    """Write the trained networks of a run as ONNX files that were checked and fit the budget.

    Each file is compared with PyTorch, its network counted by fvcore and, where the budget limits
    latency, measured; what does not hold is not delivered. Files that are there are left alone.

    The run's own files take normalised float images, in batches of any size, and give logits.
    Where anything else is asked for, the files go to `out` only.

    Args:
        ids: only these networks; by default the found ones, and the known one where the run
            recommends it.
        dataset: the run's data, where they are loaded already.
        precision: fp32 is always written; fp16 and int8 come from it, as `model.fp16.onnx` and
            `model.int8.onnx`, int8 calibrated on training images. That of the run's budget is
            written as well.
        optimize: "latency" or "memory": also write `model.optimized.onnx`, the fp32 graph
            rewritten as measurements on this machine (or the peak memory) decide, and what
            `precision` asks for from that.
        out: also copy the files and their cards to this folder, as `ID.onnx`, `ID.int8.onnx` and
            so on; by default `deploy` in the run where the files differ from its own.
        input: "uint8" for files that take the pixels (batch, h, w, c) and normalise themselves.
        softmax: files that give probabilities.
        opset: of `gemkit.export.onnx_builder.OPSETS`, by default the oldest.
        batch: a fixed batch size, for compilers that need one.
        format: "c" also writes C projects, in the budget's precision and those asked for (fp32 only
            where the budget's is no int8), for the microcontroller that the run is for or for the
            usual ones.
        data: where the run's data lie now; needed where it keeps no pictures and they have moved.

    Returns:
        the networks, and where their files went.

    Raises:
        UserError: no run, no such network, nothing trained yet, or an option is not possible.
    """
    console = console or default_console()
    form = Form(input == "uint8", softmax, batch, opset or DEFAULT_OPSET)
    check_options(form.batch, form.opset)
    check_format(format, input, softmax, batch)
    with opened(run) as run:
        chosen = {one.id for one in _chosen(run, ids)}
        dataset = run_data.for_files(run, data, dataset)
        entries = [
            (job_of(run, entry), entry)
            for entry in _trained(run)
            if (entry.id in chosen or isinstance(entry, Baseline)) and not _is_there(run, entry)
        ]
        for job, _ in entries:
            job.check_weights()
        if entries:
            console.print(
                f"exporting {formatting.number(len(entries), 'network')}: a few seconds each"
            )
        with bar(console, "networks exported", len(entries)) as advance:
            for index, (job, entry) in enumerate(entries):
                _export_one(run, job, entry, dataset, console)
                advance(completed=index + 1)
        _note_memory(run)
        kinds = tuple(dict.fromkeys([*precision, run.budget.precision]))
        folder = folder_of(run.path, out, form)
        board, in_int8 = microcontroller_of(run), run.budget.precision == "int8"
        made: dict[str, list[dict[str, Any]]] = {}
        for model in _trained(run):
            if model.id not in chosen or not model.onnx:
                continue
            path = run.path / model.onnx
            if form != Form():
                assert folder is not None
                path = folder / f"{model.id}.onnx"
                file = _export_as(run, model, dataset, form, path, console)
            else:
                file = entry_of(path)
            others = convert(path, kinds, optimize, dataset, run.budget, console)
            made[model.id] = [file, *others]
            if form == Form() and not _fits_converted(run, model, path, console):
                continue
            if format == "c":
                wanted = {run.budget.precision, *precision} - ({"fp32"} if in_int8 else set())
                asked = [one for one in made[model.id] if one["precision"] in wanted]
                made[model.id] += projects(path, asked, dataset, board, console)
            if folder is not None:
                if form == Form():
                    _copy(path, model.id, folder)
                # The run's measurements are those of a file that was copied, not made anew.
                anew = [Path(one["onnx"]) for one in others]
                measured = [
                    one
                    for one in model.measurements
                    if form == Form() and run.path / (one.onnx or "") not in anew
                ]
                _card_beside(run, model, folder, measured)
        if folder is not None:
            console.print(f"files: {folder}")
        delivered = tuple(one for one in _trained(run) if one.id in chosen)
        return Delivery(delivered, made, folder)


def _trained(run: Run) -> list[Model | Baseline]:
    """All networks of a run that have an accuracy, the found ones first."""
    networks: list[Model | Baseline] = [*run.models(), *run.baselines()]
    return [one for one in networks if one.accuracy is not None]


def check_format(format: str, input: str, softmax: bool, batch: int | None) -> None:
    """Make sure that files of this form can be had in this format.

    Raises:
        UserError: C files always take pixels, give logits and are for one image.
    """
    if format == "c" and (input != "float" or softmax or batch):
        raise UserError(
            "--format c: the C files take pixels of one image and give logits, so leave --input, "
            "--softmax and --batch out"
        )


def _is_there(run: Run, entry: Model | Baseline) -> bool:
    """Whether a network has its fp32 file."""
    return entry.onnx is not None and (run.path / entry.onnx).is_file()


def _note_memory(run: Run) -> None:
    """Store the peak activation memory of the baselines, traced from their files."""
    for entry in run.baselines():
        if entry.peak_memory_bytes is None and entry.onnx and _is_there(run, entry):
            size = peak_of_file(run.path / entry.onnx) * PRECISIONS[run.budget.precision] // 4
            run.put(replace(entry, peak_memory_bytes=size))


def folder_of(run: Path, out: Path | str | None, form: Form) -> Path | None:
    """Where files go besides the run's models; None where they go nowhere else."""
    if out is not None:
        return Path(out)
    return None if form == Form() else run / "deploy"


def _export_as(
    run: Run, model: Model | Baseline, dataset: Dataset, form: Form, path: Path, console: Console
) -> dict[str, Any]:
    """Write a model in another form than the run's own file."""
    exported = _written(run, job_of(run, model), model, dataset, path, form)
    console.print(
        f"  {path.name}: {formatting.size(exported.file_bytes)}, "
        f"{'uint8 pixels' if form.preprocessing else 'normalised images'} in, "
        f"{'probabilities' if form.softmax else 'logits'} out, batch "
        f"{form.batch or 'of any size'}, opset {form.opset}, parity "
        f"{exported.parity_max_abs:.1e}, accuracy of the file "
        f"{formatting.percent(exported.accuracy)}"
    )
    return {**exported.to_json(), "precision": "fp32"}


def _fits_converted(run: Run, model: Model | Baseline, path: Path, console: Console) -> bool:
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
    run.put(replace(model, onnx=None, state="failed", error=reason))
    console.print(f"  {model.id}: {reason}: over the budget, not delivered")
    return False


def _card_beside(
    run: Run, model: Model | Baseline, folder: Path, measured: Sequence[Measurement]
) -> None:
    """The card of the files that were put into a folder, with what was measured of these files."""
    id = model.id
    write_network_card(run, model, folder / f"{id}.onnx", folder / f"{id}.card.md", measured)


def _copy(path: Path, id: str, out: Path) -> None:
    for file in files_of(path):
        write_bytes(out / file.name.replace("model", id, 1), file.read_bytes())
    for project in path.parent.glob("model*-c"):
        for file in project.iterdir():
            write_bytes(out / project.name.replace("model", id, 1) / file.name, file.read_bytes())


def _chosen(run: Run, ids: Sequence[str]) -> list[Model | Baseline]:
    trained = _trained(run)
    if not trained:
        raise UserError(
            f"{run.path} has no trained network: run `{command('train', run.path)}` first"
        )
    if ids:
        return [find(id, run.path, trained) for id in dict.fromkeys(ids)]
    recommendation = run.recommendation()
    return [
        one
        for one in trained
        if one.state == "done"
        and (isinstance(one, Model) or (recommendation is not None and one.id == recommendation.id))
    ]


def _written(
    run: Run, job: Job, entry: Model | Baseline, dataset: Dataset, path: Path, form: Form
) -> Exported:
    """Write a trained network's fp32 file; fvcore counts it first."""
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
        known_accuracy=entry.accuracy,
        metadata={
            "id": job.name,
            "accuracy": entry.accuracy,
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
    run: Run, job: Job, entry: Model | Baseline, dataset: Dataset, console: Console
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
    elif _is_measured(run, entry):
        milliseconds = latency_ms([path])[0]
        text += f", {format_latency(milliseconds)}"
        if milliseconds > (budget.latency_ms or 0):
            path.unlink()
            reason = f"measured {format_latency(milliseconds)} when it was exported"
            values = {"onnx": None, "state": "failed", "error": reason}
            text += ": over the budget, not delivered"
    put(run, job, **values)
    if isinstance(entry, Model):
        _draw(job, entry)
    console.print(text)


def _is_measured(run: Run, entry: Model | Baseline) -> bool:
    """Whether a network must be measured here before it is delivered."""
    budget = run.budget
    if budget.latency_ms is None or budget.precision != "fp32" or is_elsewhere(run):
        return False
    # One that was trained only to compare with, as in older runs, was not made to fit.
    return isinstance(entry, Model) or entry.holdout is not None


def _draw(job: Job, model: Model) -> None:
    text = formatting.cell_line(model)
    figure = cell_plots.cell_figure(model.cell, f"Cell {model.id}", text)
    plots.save(figure, job.folder / "cell.png")
