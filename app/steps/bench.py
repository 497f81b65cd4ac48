"""Measuring as a step: latencies of a run's files, its cards and its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.errors import UserError
from gemkit.files import is_folder, write_json
from gemkit.store import Run, now

from .. import formatting
from ..terminal.progress import bar, default_console
from .export import files_of
from .networks import open_run


def bench(
    *what: Run | Path | str,
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (),
    provider: Sequence[str] = ("cpu",),
    size: Sequence[int] = (),
    console: Console | None = None,
    hint: bool = True,
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
    from gemkit.export import timing
    from gemkit.export.benchmark import benchmark

    from .. import zoo
    from ..report import report

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
        _print_measurements(found, console)
        return found
    with open_run(runs[0]) as opened:
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
            for file in files_of(opened.path / entry["onnx"])
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
            one["onnx"] = str(Path(one["model"]).relative_to(opened.path))
            one["id"] = one["model"] = entry["id"]
            one["date"] = now()
        for kind, entry in entries:
            own = [one for one in found if one["id"] == entry["id"]]
            _keep_measurements(opened, kind, entry, own)
        _print_measurements(found, console)
        report.write(opened)
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
        path = run.path / entry["onnx"]
        write_model_card(run, entry, path, path.with_name("card.md"), values["measurements"])


def write_model_card(
    run: Run,
    entry: Mapping[str, Any],
    path: Path,
    card: Path,
    measurements: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the card of a run's model for its ONNX file at `path`."""
    from gemkit.export.card import write_card

    data = run.setting("data", {})
    recipe = (entry["extra"] or {}).get("recipe") or run.setting("recipe", {})
    write_card(
        card,
        path,
        data=data.get("name", run.config["data"]),
        accuracy=entry["accuracy"],
        test_images=data.get("test"),
        training=f"{entry['epochs']} epochs, recipe {recipe.get('recipe')}, seed {entry['seed']}",
        budget=run.budget,
        parity_max_abs=entry["parity_max_abs"],
        measurements=measurements,
        files=files_of(path)[1:],
        elsewhere=formatting.on_target(entry),
    )


def _print_measurements(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    from ..terminal.show import measurement_table

    console.print(measurement_table(found, console.width))
    noisy = [one for one in found if one.get("noisy")]
    if len(noisy) > 1:  # one sentence for all, since it is the machine's
        console.print(
            f"  noisy: in {len(noisy)} of {len(found)} measurements (~) p50 is not sure to a tenth "
            "or calls take far longer now and then; close what else runs here and measure again",
        )
    for one in found:
        for note in one.get("notes", ()):
            if len(noisy) < 2 or not note.startswith("noisy"):
                console.print(f"  {one['model']}: {note}")
