"""`gemkit export`: a run's trained networks as checked ONNX files within the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit import __version__
from gemkit.budget import PRECISIONS, Budget, format_latency
from gemkit.cost import count_with_fvcore
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.export.benchmark import latency_ms
from gemkit.export.exporter import Exported, check_options, export_onnx
from gemkit.export.onnx_builder import DEFAULT_OPSET
from gemkit.export.schedule import peak_of_file
from gemkit.files import write_bytes
from gemkit.records import Baseline, Model
from gemkit.store import Run

from .. import formatting, run_data
from ..hints import command
from ..report import cell_plots, plots
from ..runs import find, is_elsewhere, opened
from ..terminal.progress import bar, default_console
from .cards import write_network_card
from .convert import convert, entry_of, files_of, in_ort_format, mark_fastest
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

    Each file is compared with PyTorch, its network counted by fvcore, and what the file itself
    costs is held against the budget; where that limits latency, it is measured. What does not hold
    is not delivered. Files that are there are left alone.

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
            usual ones; "ort" also writes all files in onnxruntime's own format.
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
            if file["onnx"] is None:
                made[model.id] = [file]
                continue
            others = convert(path, kinds, optimize, dataset, _budget_here(run), console)
            made[model.id] = [file, *others]
            if form == Form() and not _is_within(run, model, path, others, console):
                continue
            if run.config.get("target") is None and run.budget.precision == "fp32":
                mark_fastest(made[model.id], console)
            if format == "c":
                wanted = {run.budget.precision, *precision} - ({"fp32"} if in_int8 else set())
                asked = [
                    one for one in made[model.id] if one["precision"] in wanted and one["onnx"]
                ]
                made[model.id] += projects(path, asked, dataset, board, console)
            if format == "ort":
                made[model.id] += in_ort_format(made[model.id], dataset, console)
            if folder is not None:
                if form == Form():
                    _copy(path, model.id, folder)
                # The run's measurements are those of a file that was copied, not made anew.
                anew = [Path(one["onnx"]) for one in others if one["onnx"]]
                measured = [
                    one
                    for one in model.measurements
                    if form == Form() and run.path / (one.onnx or "") not in anew
                ]
                id = model.id
                own, card = folder / f"{id}.onnx", folder / f"{id}.card.md"
                write_network_card(run, model, own, card, measured)
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
    over = _left(run, exported)[1]
    if over:
        path.unlink()
        console.print(f"  {path.name}: not delivered, since it leaves the budget: {over}")
        return {**exported.to_json(), "precision": "fp32", "onnx": None, "over": over}
    console.print(
        f"  {path.name}: {formatting.size(exported.file_bytes)}, "
        f"{'uint8 pixels' if form.preprocessing else 'normalised images'} in, "
        f"{'probabilities' if form.softmax else 'logits'} out, batch "
        f"{form.batch or 'of any size'}, opset {form.opset}, parity "
        f"{exported.parity_max_abs:.1e}, accuracy of the file "
        f"{formatting.percent(exported.accuracy)}"
    )
    return {**exported.to_json(), "precision": "fp32"}


def _is_within(
    run: Run,
    model: Model | Baseline,
    path: Path,
    others: Sequence[Mapping[str, Any]],
    console: Console,
) -> bool:
    """Whether the file that a budget in another precision than fp32 means was kept; else the
    network is not delivered."""
    left = (one for one in others if one["precision"] == run.budget.precision and one.get("over"))
    refused = next(left, None)
    if refused is None or path.with_name(f"{path.stem}.{run.budget.precision}.onnx").is_file():
        return True
    for written in files_of(path):
        written.unlink()
    reason = f"{refused['over']}, in {refused['precision']}"
    run.put(replace(model, onnx=None, state="failed", error=reason))
    console.print(f"  {model.id}: not delivered, since it leaves the budget: {reason}")
    return False


def _budget_here(run: Run) -> Budget:
    """The run's budget, without a latency on another device, where nothing can be measured."""
    return replace(run.budget, latency_ms=None) if is_elsewhere(run) else run.budget


def _left(run: Run, exported: Exported) -> tuple[float | None, str]:
    """The latency of an fp32 file, where the budget means that, and which limits it leaves."""
    budget = _budget_here(run)
    milliseconds = None
    if budget.latency_ms is not None and budget.precision == "fp32":
        milliseconds = latency_ms([exported.path])[0]
    return milliseconds, exported.figures.over(budget, "fp32", milliseconds)


def _copy(path: Path, id: str, out: Path) -> None:
    for file in files_of(path):
        write_bytes(out / file.name.replace("model", id, 1), file.read_bytes())
    for file in (*path.parent.glob("model*.ort"), *path.parent.glob("model*.config")):
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
    # A known network that was trained only to compare with, as in older runs, need not fit.
    if isinstance(entry, Model) or entry.holdout is not None:
        milliseconds, over = _left(run, exported)
        if milliseconds is not None:
            text += f", {format_latency(milliseconds)}"
        if over:
            path.unlink()
            values = {"onnx": None, "state": "failed", "error": over}
            text += f"; not delivered, since it leaves the budget: {over}"
    put(run, job, **values)
    if isinstance(entry, Model):
        _draw(job, entry)
    console.print(text)


def _draw(job: Job, model: Model) -> None:
    text = formatting.cell_line(model)
    figure = cell_plots.cell_figure(model.cell, f"Cell {model.id}", text)
    plots.save(figure, job.folder / "cell.png")
