"""Files in onnxruntime's own format, `.ort`, for its minimal builds, and the operators they need.

    made = to_ort("model.int8.onnx", "model.int8.ort", test=(x_test, y_test))
    made.operators        # for `build.sh --minimal_build --include_ops_by_config` of onnxruntime

The conversion is onnxruntime's. Its graph is optimised for any processor: blocked layouts, which
only some have, are left out.
"""

import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.files import write_bytes, write_text

from .exporter import (
    Images,
    ModelInfo,
    allowed_difference,
    fixed_batch,
    quiet,
    read_info,
    run_batched,
)
from .timing import open_session

OPERATORS_ENDING = ".required_operators_and_types.config"
"""Of the list of operators beside a file, in place of `.ort`."""
_ROUNDED = 0.02
"""Share of the largest output by which others than fp32 files may differ, in other kernels."""


@dataclass(frozen=True)
class OrtFile:
    """A file in onnxruntime's format, and what its checks found.

    Attributes:
        operators: the file that lists the operators and types it needs.
        parity_max_abs: largest difference from the ONNX file's outputs.
        accuracy: on the test images, where they were given.
    """

    path: Path
    operators: Path
    precision: str
    file_bytes: int
    parity_max_abs: float
    accuracy: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, under the names that programs read."""
        return {
            "format": "ort",
            "ort": str(self.path),
            "operators": str(self.operators),
            "precision": self.precision,
            "file_bytes": self.file_bytes,
            "parity_max_abs": self.parity_max_abs,
            "accuracy": self.accuracy,
        }


def to_ort(
    source: Path | str, target: Path | str, *, test: tuple[Images, NDArray[np.int64]] | None = None
) -> OrtFile:
    """Write an ONNX file of gemkit's in onnxruntime's format, compared with it.

    Args:
        target: ends in `.ort`; the list of operators takes its place beside it.
        test: images to compare on and to take the accuracy on; random ones without.

    Raises:
        UserError: the source is none of gemkit's, or the target cannot be written.
        RuntimeError: the outputs differ, a fault of gemkit's or onnxruntime's; nothing was written.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import (
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    source, target = Path(source), Path(target)
    if target.suffix != ".ort":
        raise UserError(f"{target}: onnxruntime knows its own format by the ending .ort")
    info = read_info(source)
    with tempfile.TemporaryDirectory(prefix="gemkit-") as folder:
        # Under another name, since the converter leaves out what is called *.optimized.onnx.
        copied = Path(folder) / "model.onnx"
        shutil.copyfile(source, copied)
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            convert_onnx_models_to_ort(
                copied,
                optimization_styles=[OptimizationStyle.Fixed],
                enable_type_reduction=True,
            )
        made = copied.with_suffix(".ort")
        parity, accuracy = _compared(source, made, info, test)
        lines = copied.with_suffix(OPERATORS_ENDING).read_text(encoding="utf-8").splitlines()
        operators = target.with_suffix(OPERATORS_ENDING)
        needed = [line for line in lines if not line.startswith("#")]
        write_text(operators, "\n".join([f"# needed by {target.name}", *needed]) + "\n")
        write_bytes(target, made.read_bytes())
    return OrtFile(target, operators, info.precision, target.stat().st_size, parity, accuracy)


def _compared(
    source: Path,
    made: Path,
    info: ModelInfo,
    test: tuple[Images, NDArray[np.int64]] | None,
) -> tuple[float, float | None]:
    """Largest difference of the outputs, and the accuracy of the file that was made."""
    before, after = open_session(source, threads=0), open_session(made, threads=0)
    channels, height, width = info.input_shape
    images = np.random.default_rng(0).integers(0, 256, (17, height, width, channels), np.uint8)
    if test is not None:
        images = test[0]
    inputs = info.normalise(images)
    wanted, found = run_batched(before, inputs), run_batched(after, inputs)
    parity = float(np.abs(wanted - found).max(initial=0))
    allowed = allowed_difference(wanted)
    if info.precision != "fp32":
        allowed = _ROUNDED * float(np.abs(wanted).max(initial=0))
    if fixed_batch(before) != fixed_batch(after) or not parity <= allowed:
        raise RuntimeError(f"the .ort file's outputs differ from {source}'s by {parity:.2g}")
    return parity, None if test is None else float((found.argmax(1) == test[1]).mean())
