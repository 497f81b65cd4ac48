"""Files made of a network's fp32 file: rewritten to be faster or smaller, in other precisions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.budget import Budget
from gemkit.data import Dataset
from gemkit.export import optimize as optimizer
from gemkit.export import quantize
from gemkit.export.benchmark import benchmark
from gemkit.export.exporter import info_of
from gemkit.export.figures import count
from gemkit.export.onnx_file import load_onnx
from gemkit.export.ort_format import to_ort
from gemkit.recommendation import fastest_file

from .. import formatting
from ..terminal.progress import bar

_SECONDS = 0.05
"""To run each file at a visit when they are compared."""


def files_of(path: Path) -> list[Path]:
    """A model's ONNX file and those made of it, which begin with its name."""
    others = sorted(path.parent.glob(f"{path.stem}.*.onnx"))
    return [path, *(other for other in others if other != path)]


def entry_of(path: Path) -> dict[str, Any]:
    """What an ONNX file of gemkit's says of itself, for `files` of an export."""
    model = load_onnx(path)
    info = info_of(model, str(path))
    own = count(model).to_json()
    return {
        "onnx": str(path),
        "precision": info.precision,
        "accuracy": info.more.get("accuracy"),
        **own,
    }


def convert(
    path: Path,
    precision: Sequence[str],
    optimize: str | None,
    dataset: Dataset | None,
    budget: Budget,
    console: Console,
) -> list[dict[str, Any]]:
    """Write a file's optimised form and other precisions of both, where asked for.

    Each is counted, judged on the test images and held against the budget by itself.

    Args:
        dataset: images that other precisions are made and all are judged on.
        budget: no rewrite is applied that leaves it, and no file that does is kept. A latency in it
            is one of this machine.

    Returns:
        what was written: `onnx`, `precision`, `accuracy`, `macs`, `weights`, `peak_memory_bytes`
        and how it was made; of a file that was not kept `onnx` is None, and `over` says which
        limits it left.
    """
    sources, made = [path], []
    id = path.parent.name if path.stem == "model" else path.stem
    if optimize is not None:
        better = path.with_name(f"{path.stem}.optimized.onnx")
        test = None if dataset is None else (dataset.x_test, dataset.y_test)
        report = optimizer.optimize_file(path, better, optimize, test=test, limits=budget)
        before, after = report.peak_memory_bytes
        console.print(
            f"  {id} optimised for {optimize}: {report.speedup:.2f} times as fast, peak memory "
            f"{formatting.size(before)} -> {formatting.size(after)}; applied: "
            f"{', '.join(report.applied) or 'nothing, since nothing paid'}",
        )
        for item in report.tried:
            if item.note.startswith("leaves"):
                console.print(f"    not applied: {item.name}, which {item.note}")
        made.append(
            {
                **report.to_json(),
                **report.figures.to_json(),
                "onnx": str(better),
                "precision": "fp32",
                "accuracy": report.accuracy,
            }
        )
        if report.applied:
            sources.append(better)
    for source in sources:
        for kind in precision:
            if kind != "fp32":
                assert dataset is not None
                made.append(_in_precision(source, kind, id, dataset, budget, console))
    return made


def _in_precision(
    source: Path, kind: str, id: str, dataset: Dataset, budget: Budget, console: Console
) -> dict[str, Any]:
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
                limits=budget,
                progress=lambda share: advance(completed=int(100 * share)),
            )
    console.print(
        f"  {text}: {formatting.percent(found.accuracy)} "
        f"(fp32 {formatting.percent(found.reference_accuracy)}), "
        f"{formatting.size(found.file_bytes)} (fp32 {formatting.size(found.reference_bytes)}), "
        f"{found.speedup:.2f} times as fast as {'that in fp32' if optimised else 'fp32'}"
    )
    notes = list(found.notes)
    made = found.to_json()
    if over := found.figures.over(budget, kind, found.latency_ms):
        target.unlink()
        notes.append(f"not delivered, since it leaves the budget: {over}")
        made |= {"onnx": None, "over": over}
    for note in notes:
        console.print(f"    {note}")
    return {**made, "notes": notes}


def mark_fastest(files: Sequence[dict[str, Any]], console: Console) -> None:
    """Measure a network's files side by side, say which to use here and mark that `recommended`."""
    kept = [file for file in files if file["onnx"] is not None]
    if len(kept) < 2:
        return
    measured = benchmark([file["onnx"] for file in kept], memory=False, seconds=_SECONDS)
    # What the first file says of itself may be of other images than the others were judged on.
    said = [file.get("accuracy") for file in kept]
    said[0] = next((f["reference_accuracy"] for f in kept if "reference_accuracy" in f), said[0])
    best = fastest_file(
        [replace(one, accuracy=accuracy) for one, accuracy in zip(measured, said, strict=True)]
    )
    if best is None:
        return
    for file in files:
        file["recommended"] = file["onnx"] == best.model
    console.print(
        f"  to use here: {Path(best.model).name}, {formatting.latency(best.latency_ms)} an image"
    )


def in_ort_format(
    files: Sequence[Mapping[str, Any]], dataset: Dataset | None, console: Console
) -> list[dict[str, Any]]:
    """Write a network's ONNX files in onnxruntime's own format beside them.

    Returns:
        what was written, under the names that programs read.
    """
    test = None if dataset is None else (dataset.x_test, dataset.y_test)
    made = []
    for path in (Path(file["onnx"]) for file in files if file["onnx"] is not None):
        found = to_ort(path, path.with_suffix(".ort"), test=test)
        console.print(
            f"  {found.path.name}: {formatting.size(found.file_bytes)}, within "
            f"{formatting.parity(found.parity_max_abs)} of {path.name}"
        )
        made.append(found.to_json())
    return made
