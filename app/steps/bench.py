"""`gemkit bench`: latencies of a run's files, or of any; a run's cards and its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.errors import UserError
from gemkit.export import timing
from gemkit.export.benchmark import benchmark
from gemkit.files import is_folder, write_json
from gemkit.store import Run, now

from .. import formatting, zoo
from ..hints import command
from ..report import report
from ..runs import opened
from ..terminal.progress import bar, default_console
from .cards import write_model_card
from .convert import files_of


def bench(
    *what: Run | Path | str,
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (),
    provider: Sequence[str] = ("cpu",),
    size: Sequence[int] = (),
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Measure a run's ONNX files and baselines, or any files and networks by name.

    A run's measurements are stored in it, and its report is written anew.

    Args:
        what: one run, or ONNX files, names in `gemkit.baselines.BASELINES` and `zoo:NAME`.
        batch: without any each file's own fixed batch, or 1.
        size: for the dimensions that a file leaves open beside the batch.

    Returns:
        the measurements, under the names that programs read.

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
        for one in found:
            one["model"] = names.get(one["model"], one["model"])
        return found
    with opened(runs[0]) as run:
        content = run.to_json()
        entries = [
            (kind, entry)
            for kind in ("models", "baselines")
            for entry in content[kind]
            if entry["onnx"] and (run.path / entry["onnx"]).is_file()
        ]
        if not any(kind == "models" for kind, _ in entries):
            raise UserError(
                f"{run.path} has no ONNX file to measure: run `{command('export', run.path)}` first"
            )
        files = {
            str(file): (kind, entry)
            for kind, entry in entries
            for file in files_of(run.path / entry["onnx"])
        }
        console.print(
            f"measuring {formatting.number(len(files), 'ONNX file')} side by side, in rounds"
        )
        with bar(console, "measuring", 100) as advance:
            found = benchmark(
                list(files),
                progress=lambda share: advance(completed=int(100 * share)),
                **options,
            )
        for one in found:
            kind, entry = files[one["model"]]
            one["onnx"] = str(Path(one["model"]).relative_to(run.path))
            one["id"] = one["model"] = entry["id"]
            one["date"] = now()
        for kind, entry in entries:
            own = [one for one in found if one["id"] == entry["id"]]
            _keep_measurements(run, kind, entry, own)
        report.write(run)
        console.print(f"report: {run.path / 'report.md'}")
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
        path = run.path / entry["onnx"]
        write_model_card(run, entry, path, path.with_name("card.md"), values["measurements"])
