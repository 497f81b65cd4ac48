"""`gemkit export zoo:NAME`: a ready-made network as a checked ONNX file with its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.budget import Budget
from gemkit.data import Dataset, load
from gemkit.errors import UserError
from gemkit.export import card
from gemkit.export.exporter import check_options
from gemkit.export.onnx_builder import DEFAULT_OPSET
from gemkit.files import write_text
from gemkit.records import plain

from .. import formatting, zoo
from .convert import convert, files_of, in_ort_format, mark_fastest
from .export import check_format
from .export_c import projects


def export_zoo(
    name: str,
    *,
    precision: Sequence[str] = ("fp32",),
    optimize: str | None = None,
    out: Path | str | None = None,
    input: str = "float",
    softmax: bool = False,
    opset: int | None = None,
    batch: int | None = None,
    format: str = "onnx",
    data: str | None = None,
    console: Console,
) -> list[dict[str, Any]]:
    """Write a network of the zoo as a checked ONNX file, with its card beside it.

    Args:
        name: with or without `zoo:`.
        precision: fp32 is always written; others, as `NAME.int8.onnx` and so on, are made and
            judged on images of `data`.
        out: the file, or a folder for it; by default NAME.onnx here.
        data: images of the kind that the network was trained on, for other precisions.
        optimize, input, softmax, opset, batch, format: as `gemkit.app.steps.export.export` takes
            them.

    Returns:
        one entry: its card and the `files` written.

    Raises:
        UserError: no such network, or an option is not possible.
    """
    known = zoo.card(name)
    others = [kind for kind in precision if kind != "fp32"]
    opset = opset or DEFAULT_OPSET
    check_options(batch, opset)
    check_format(format, input, softmax, batch)
    if others and data is None:
        raise UserError(
            f"--precision {','.join(others)} is made and judged on images that are not shipped: "
            f"give --data with images like those of {known.data}, or export fp32"
        )
    dataset = None
    if data is not None:
        dataset = _suiting(data, known)
    path = Path(out) if out is not None else Path(f"{known.name}.onnx")
    if path.suffix != ".onnx":
        path = path / f"{known.name}.onnx"
    exported = zoo.write(
        known,
        path,
        preprocessing=input == "uint8",
        softmax=softmax,
        opset=opset,
        batch=batch,
    )
    console.print(
        f"{path}: {formatting.size(exported['file_bytes'])}, parity "
        f"{exported['parity_max_abs']:.1e}; "
        f"{formatting.percent(known.accuracy)} on {known.data} by its card",
    )
    made = [exported]
    if optimize is not None or dataset is not None:
        made += convert(path, precision, optimize, dataset, Budget(), console)
        mark_fastest(made, console)
    if format == "c":
        made += projects(path, made, dataset, None, console)
    if format == "ort":
        made += in_ort_format(made, dataset, console)
    about = path.with_suffix(".card.md")
    write_card(known, path, about, exported["parity_max_abs"], files_of(path)[1:])
    console.print(f"card: {about}")
    return [{**plain(known), "onnx": str(path), "files": made}]


def _suiting(data: str, known: zoo.Card) -> Dataset:
    dataset = load(data)
    shape = known.network.skeleton.input_shape
    if (dataset.input_shape, dataset.classes) != (shape, len(known.class_names)):
        raise UserError(
            f"{data} has {dataset.classes} classes of {dataset.input_shape} images, but "
            f"{known.name} knows {len(known.class_names)} classes of {shape} images"
        )
    return dataset


def write_card(
    known: zoo.Card,
    path: Path,
    about: Path,
    parity: float | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Write the card of a network of the zoo for its ONNX file at `path`."""
    card.write_card(
        about,
        path,
        data=known.data,
        accuracy=known.accuracy,
        test_images=known.test_images,
        training=known.training["text"],
        budget=known.budget,
        parity_max_abs=parity,
        measurements=known.measurements,
        files=files,
    )
    more = [
        "",
        "## Where it comes from",
        "",
        known.search["text"],
        "",
        known.data_note,
        "",
        f"Made with `{known.command}`.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in known.limits),
    ]
    write_text(about, about.read_text(encoding="utf-8") + "\n".join(more) + "\n")
