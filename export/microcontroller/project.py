"""A C project of a network: written, compiled, compared with onnxruntime, and only then kept.

    made = c_project("model.int8.onnx", "model.int8-c", test=(x_test, y_test))
    made.over(budget)            # which limits it breaks on a board, and by how much

The reference of an int8 file is onnxruntime without its optimisations, which computes what the file
says: integers within it may saturate where a processor lacks instructions for them.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from gemkit.budget import PRECISIONS, Budget, format_bytes
from gemkit.cost import peak_memory
from gemkit.files import write_text

from ..exporter import allowed_difference, run_batched
from ..onnx_file import load_onnx
from .arena import arena
from .program import Program, program_of
from .toolchain import (
    ARM,
    EMULATOR,
    PROCESSORS,
    TO_INSTALL,
    Size,
    build,
    emulate,
    on_host,
)
from .writer import Image, c_files

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

EMULATED_IMAGES = 3
"""Images that are run on an emulated processor."""
_RANDOM = 32
_STEPS = 0.25
"""Mean difference of 8-bit outputs that is taken for rounding; it was 0.04 at most."""


@dataclass(frozen=True)
class Board:
    """A network on a processor.

    Attributes:
        size: flash and RAM.
        instructions: for one image, counted by the emulator; None where that was not run.
    """

    processor: str
    size: Size
    instructions: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "processor": self.processor,
            "flash_bytes": self.size.flash_bytes,
            "ram_bytes": self.size.ram_bytes,
            "stack_bytes": self.size.stack_bytes,
            "instructions": self.instructions,
        }


@dataclass(frozen=True)
class CProject:
    """A folder of C files, and what its checks found.

    Attributes:
        precision: fp32 or int8.
        planned_bytes: peak of the activations that are alive at once, the pixels' own numbers
            included; no array can be smaller.
        arena_bytes: of the array that holds them.
        weight_bytes: of weights and biases, of tables that integers need as well.
        accuracy: on the test images, of the compiled program; None without these or a compiler.
        parity_max_abs: largest difference of an output from onnxruntime's, in floats as it is, in
            integers in steps of the 8-bit output; None without a compiler.
        boards: processors that it was compiled for.
        notes: sentences: what could not be verified, and what to install.
    """

    folder: Path
    precision: str
    planned_bytes: int
    arena_bytes: int
    weight_bytes: int
    accuracy: float | None
    parity_max_abs: float | None
    boards: tuple[Board, ...]
    notes: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """Whether the compiled program was compared with onnxruntime."""
        return self.parity_max_abs is not None

    def over(self, budget: Budget) -> str:
        """Which limits of memory it breaks, as a part of a sentence; empty where it keeps all.

        Where it was not compiled for a board, its arrays alone are held against them.
        """
        flash = max((one.size.flash_bytes for one in self.boards), default=self.weight_bytes)
        ram = max((one.size.ram_bytes for one in self.boards), default=self.arena_bytes)
        limit = None if budget.params is None else budget.params * PRECISIONS[budget.precision]
        found = [
            f"{format_bytes(used)} of {what}, {format_bytes(used - allowed)} more than the "
            f"{format_bytes(allowed)} allowed"
            for what, used, allowed in (
                ("flash", flash, limit),
                ("RAM", ram, budget.memory_bytes),
            )
            if allowed is not None and used > allowed
        ]
        return " and ".join(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values, under the names that programs read."""
        return {
            "format": "c",
            "folder": str(self.folder),
            "precision": self.precision,
            "planned_bytes": self.planned_bytes,
            "arena_bytes": self.arena_bytes,
            "weight_bytes": self.weight_bytes,
            "accuracy": self.accuracy,
            "parity_max_abs": self.parity_max_abs,
            "verified": self.verified,
            "boards": [board.to_json() for board in self.boards],
            "notes": list(self.notes),
        }


def c_project(
    path: Path | str,
    folder: Path | str,
    *,
    test: Labelled | None = None,
    processors: Sequence[str] = (),
) -> CProject:
    """Write an ONNX file of gemkit's as a C project, and check that.

    Args:
        path: an fp32 or an int8 file that takes normalised images and gives logits.
        folder: for the project.
        test: images to compare on and to take the accuracy on; random images without them.
        processors: names of PROCESSORS to compile it for and, where the emulator is there, to run
            it on.

    Raises:
        UserError: the file cannot be written as C, or the folder cannot be written.
        RuntimeError: the program computes something else than the file, a fault of gemkit's;
            nothing was written.
    """
    path, folder = Path(path), Path(folder)
    model = load_onnx(path)
    program = program_of(model, str(path))
    images, labels = test or (_random_images(program), None)
    example = Image(images[0], None if labels is None else int(labels[0]))
    files = c_files(program, example)
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        staged = Path(temporary)
        for name, text in files.items():
            (staged / name).write_text(text, encoding="utf-8")
        checks = _Checks(staged, program, images)
        parity, outputs = checks.on_host(model)
        boards = checks.on_boards(processors, outputs)
    accuracy = None
    if labels is not None and outputs is not None:
        accuracy = float((outputs.argmax(1) == labels).mean())
    for name, text in files.items():
        write_text(folder / name, text)
    item = 1 if program.integer else 4
    return CProject(
        folder,
        program.info.precision,
        peak_memory(program.steps) * item,
        arena(program.steps).size * item,
        program.constant_bytes,
        accuracy,
        parity,
        boards,
        tuple(checks.notes),
    )


class _Checks:
    """Compiles and runs a project's files; `notes` says what could not be done."""

    def __init__(self, folder: Path, program: Program, images: NDArray[np.uint8]) -> None:
        self.folder, self.program, self.images = folder, program, images
        self.number: type[np.generic] = np.uint8 if program.integer else np.float32
        self.notes: list[str] = []

    def on_host(self, model: onnx.ModelProto) -> tuple[float | None, NDArray[Any] | None]:
        """Largest difference from onnxruntime, and the outputs."""
        outputs = on_host(self.folder, self.images, self.number)
        if outputs is None:
            self.notes.append(
                f"not verified: there is no C compiler on this machine ({TO_INSTALL} gcc)"
            )
            return None, None
        return _parity(model, self.program, self.images, outputs), outputs

    def on_boards(
        self, processors: Sequence[str], outputs: NDArray[Any] | None
    ) -> tuple[Board, ...]:
        boards = []
        for name in processors:
            size = build(self.folder, PROCESSORS[name])
            if size is None:
                self.notes.append(
                    f"not compiled for {name}: there is no {ARM}gcc ({TO_INSTALL} "
                    "gcc-arm-none-eabi libnewlib-arm-none-eabi)"
                )
                continue
            few = self.images[:EMULATED_IMAGES]
            found = emulate(self.folder, PROCESSORS[name], few, self.number)
            if found is None:
                self.notes.append(
                    f"not run on an emulated {name}: there is no {EMULATOR} ({TO_INSTALL} "
                    "qemu-system-arm), or the network is larger than its memory"
                )
            elif outputs is not None and not np.array_equal(found.outputs, outputs[: len(few)]):
                raise RuntimeError(f"the program gives other numbers on {name} than here")
            boards.append(Board(name, size, None if found is None else found.instructions))
        return tuple(boards)


def _parity(
    model: onnx.ModelProto,
    program: Program,
    images: NDArray[np.uint8],
    outputs: NDArray[Any],
) -> float:
    """Largest difference from onnxruntime; in integers in steps of the output.

    Raises:
        RuntimeError: it is too large, or classes differ that are no ties; in integers by more than
            one step for one image in a thousand.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    wanted = run_batched(session, program.info.normalise(images)).astype(np.float64)
    found, output = outputs.astype(np.float64), program.tensors[program.output]
    allowed = allowed_difference(wanted)
    tie = 2 * allowed
    if output.scale is not None:
        wanted, tie = np.rint(wanted / output.scale) + output.zero, 1
    differences = np.abs(found - wanted)
    largest = float(differences.max(initial=0))
    lost = wanted.max(axis=1) - wanted[np.arange(len(found)), found.argmax(axis=1)]
    others = int((lost > tie).sum())
    if output.scale is not None:
        # A sum between two integers may be rounded either way, which later layers see.
        same = differences.mean() <= _STEPS and others <= max(1, len(found) // 1000)
    else:
        same = largest <= allowed and not others
    if not same:
        raise RuntimeError(
            f"the C program's outputs differ from onnxruntime's by up to {largest:.2g} "
            f"({differences.mean():.2g} in the mean), {others} of {len(found)} classes with them"
        )
    return largest


def _random_images(program: Program) -> NDArray[np.uint8]:
    channels, height, width = program.info.input_shape
    shape = (_RANDOM, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
