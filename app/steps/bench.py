"""`gemkit bench`: latencies of a run's files, or of any; a run's cards and its report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.errors import UserError
from gemkit.export import timing
from gemkit.export.benchmark import benchmark
from gemkit.files import is_folder, write_json
from gemkit.records import Baseline, Measurement, Model, plain
from gemkit.store import Run, now

from .. import formatting, zoo
from ..hints import command
from ..report import report
from ..runs import opened
from ..terminal.progress import bar, default_console
from .cards import write_network_card
from .convert import files_of


def bench(
    *what: Run | Path | str,
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (),
    provider: Sequence[str] = ("cpu",),
    size: Sequence[int] = (),
    console: Console | None = None,
) -> list[Measurement]:
    """Measure a run's ONNX files and baselines, or any files and networks by name.

    A run's measurements are stored in it, and its report is written anew.

    Args:
        what: one run, or ONNX files, names in `gemkit.baselines.BASELINES` and `zoo:NAME`.
        batch: without any each file's own fixed batch, or 1.
        size: for the dimensions that a file leaves open beside the batch.

    Returns:
        the measurements, in the order of what was asked for.

    Raises:
        UserError: something cannot be measured.
    """
    console = console or default_console()
    for item in what:
        if zoo.is_zoo(item):
            zoo.card(str(item))
    runs = [item for item in what if isinstance(item, Run) or is_folder(Path(item))]
    if runs and len(what) > 1:
        raise UserError("give one run alone, or ONNX files and names of networks without a run")
    for name in provider:
        try:
            timing.provider_name(name)
        except timing.MeasureError as error:
            raise UserError(str(error)) from None
    options: dict[str, Any] = {
        "threads": threads,
        "batches": batch,
        "providers": provider,
        "sizes": size,
    }
    if not runs:
        models = [str(item) for item in what]
        with zoo.files(models) as made, bar(console, "measuring", 100) as advance:
            found = benchmark(
                [made.get(model, model) for model in models],
                progress=lambda share: advance(completed=int(100 * share)),
                **options,
            )
        names = {path: name for name, path in made.items()}
        return [replace(one, model=names.get(one.model, one.model)) for one in found]
    with opened(runs[0]) as run:
        networks: list[Model | Baseline] = [*run.models(), *run.baselines()]
        entries = [
            (entry, run.path / entry.onnx)
            for entry in networks
            if entry.onnx and (run.path / entry.onnx).is_file()
        ]
        if not entries:
            raise UserError(
                f"{run.path} has no ONNX file to measure: run `{command('export', run.path)}` first"
            )
        files = {str(file): entry for entry, path in entries for file in files_of(path)}
        console.print(
            f"measuring {formatting.number(len(files), 'ONNX file')} side by side, in rounds"
        )
        with bar(console, "measuring", 100) as advance:
            found = benchmark(
                list(files),
                progress=lambda share: advance(completed=int(100 * share)),
                **options,
            )
        when = now()
        found = [
            replace(
                one,
                model=files[one.model].id,
                id=files[one.model].id,
                onnx=str(Path(one.model).relative_to(run.path)),
                date=when,
            )
            for one in found
        ]
        for entry, path in entries:
            _keep_measurements(run, entry, path, [one for one in found if one.id == entry.id])
        report.write(run)
        console.print(f"report: {run.path / 'report.md'}")
    return found


def _keep_measurements(
    run: Run, entry: Model | Baseline, path: Path, own: Sequence[Measurement]
) -> None:
    """Store measurements; those of the same file and conditions replace older ones."""
    known = {one.conditions: one for one in (*entry.measurements, *own)}
    measurements = tuple(known.values())
    usual = known.get((entry.onnx, "CPUExecutionProvider", 1, 1))
    latency = entry.latency_ms if usual is None else usual.latency_ms
    run.put(replace(entry, measurements=measurements, latency_ms=latency))
    write_json(path.with_name("bench.json"), plain(measurements))
    write_network_card(run, entry, path, path.with_name("card.md"), measurements)
