"""`gemkit export --format c`: C projects for microcontrollers, of the ONNX files of a network."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.budget import format_bytes, format_count
from gemkit.data import Dataset
from gemkit.errors import UserError
from gemkit.export.exporter import read_info
from gemkit.export.microcontroller.project import CProject, c_project
from gemkit.export.microcontroller.toolchain import PROCESSORS
from gemkit.export.quantize import to_int8
from gemkit.export.targets import Target, target
from gemkit.files import write_json
from gemkit.records import Network
from gemkit.store import Run

from .. import formatting

_USUAL = ("cortex-m4", "cortex-m7")
"""What projects are compiled for where no target says otherwise."""
_WRITTEN = ("fp32", "int8")


def microcontroller_of(run: Run) -> Target | None:
    """The microcontroller that a run is for; None for other devices, and for one that is gone."""
    name = run.config.get("target")
    try:
        found = None if name is None else target(name)
    except UserError:
        return None
    return found if found is not None and found.processor is not None else None


def for_board(
    run: Run, networks: Sequence[Network], dataset: Dataset, console: Console
) -> list[dict[str, Any]]:
    """Write what a run for a microcontroller delivers as C projects; nothing for other devices."""
    board = microcontroller_of(run)
    made = []
    for one in networks:
        if board is not None and one.onnx:
            path = run.path / one.onnx
            kind = run.budget.precision
            file = path if kind == "fp32" else path.with_name(f"{path.stem}.{kind}.onnx")
            files = [{"onnx": str(file), "precision": kind}]
            made += projects(path, files, dataset, board, console)
    return made


def projects(
    path: Path,
    files: Sequence[Mapping[str, Any]],
    dataset: Dataset | None,
    board: Target | None,
    console: Console,
) -> list[dict[str, Any]]:
    """Write a network's fp32 and int8 files as C projects beside them.

    What a project takes is held against the board's limits, and said if it is more.

    Args:
        path: its fp32 file.
        files: what is to be written, as an export's `files` say it; fp16 is left out.
        dataset: images that projects are compared with onnxruntime on; int8 files that have layers
            in floats are quantised anew on them.
        board: compiled for its processor, or for _USUAL without it.

    Returns:
        what was written, under the names that programs read.
    """
    made = []
    id = path.parent.name if path.stem == "model" else path.stem
    for file in files:
        if file["precision"] not in _WRITTEN:
            continue
        source = Path(file["onnx"])
        folder = source.with_name(f"{source.stem}-c")
        found = _project(source, path, folder, dataset, board)
        over = found.over(board.budget) if board is not None else ""
        _say(f"{id} {found.precision} in C", found, over, board, console)
        value = {**found.to_json(), "over": over or None}
        write_json(folder / "project.json", {**value, "folder": "."})
        made.append(value)
    return made


def _project(
    source: Path, fp32: Path, folder: Path, dataset: Dataset | None, board: Target | None
) -> CProject:
    test = None if dataset is None else (dataset.x_test, dataset.y_test)
    processors: tuple[str, ...] = _USUAL
    if board is not None:
        processors = tuple(name for name in PROCESSORS if name == board.processor)
    if not read_info(source).more.get("float_layers") or dataset is None:
        return c_project(source, folder, test=test, processors=processors)
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        whole = Path(temporary) / "int8.onnx"
        training = (dataset.x_train, dataset.y_train)
        to_int8(fp32, whole, training=training, test=(dataset.x_test, dataset.y_test), whole=True)
        return c_project(whole, folder, test=test, processors=processors)


def _say(text: str, found: CProject, over: str, board: Target | None, console: Console) -> None:
    if found.verified:
        text += f": {formatting.percent(found.accuracy)}" if found.accuracy is not None else ""
        unit = "steps of 8 bits" if found.precision == "int8" else "at most"
        text += f", compiled here and compared with onnxruntime ({found.parity_max_abs:.2g} {unit})"
    text += f"; activations {format_bytes(found.arena_bytes)}"
    console.print(f"  {text}: {found.folder}")
    for one in found.boards:
        counted = "not run"
        if one.instructions is not None:
            counted = f"{format_count(one.instructions)} instructions an image, emulated"
        console.print(
            f"    {one.processor}: flash {format_bytes(one.size.flash_bytes)}, RAM "
            f"{format_bytes(one.size.ram_bytes)}; {counted}"
        )
    notes = list(found.notes)
    if board is not None:
        if board.processor not in PROCESSORS:
            notes.append(
                f"not compiled for {board.processor}: unverified there, build it with your board's "
                "compiler"
            )
        notes.append(
            f"does not fit {board.name}: {over}" if over else f"fits the limits of {board.name}"
        )
    for note in notes:
        console.print(f"    {note}")
