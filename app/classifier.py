"""An ONNX file that gemkit wrote, ready to classify pictures by onnxruntime alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.export import exporter, timing
from gemkit.pictures import Images


@dataclass(frozen=True)
class Classifier:
    """An ONNX file ready to classify pictures of any size."""

    info: exporter.ModelInfo
    session: Any

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            UserError: it is missing, damaged or was not written by gemkit, or it does not
                classify what it says it does.
        """
        info = exporter.read_info(path)
        try:
            session = timing.open_session(path)
        except timing.MeasureError as error:
            raise UserError(str(error)) from None
        channels, height, width = info.input_shape
        batch = exporter.fixed_batch(session) or 1
        blank = np.zeros((batch, height, width, channels), dtype=np.uint8)
        try:
            shape = exporter.run(session, info.normalise(blank)).shape
        except Exception:  # onnxruntime has a class for each of its codes, without a common base
            shape = None
        if shape != (batch, len(info.class_names)):
            raise UserError(
                f"{path} does not turn images of {channels}x{height}x{width} into "
                f"{len(info.class_names)} classes, as its metadata say: export it again"
            )
        return cls(info, session)

    def classify(self, picture: Images) -> tuple[NDArray[np.float64], float]:
        """Probabilities of the classes (classes,) and the milliseconds that onnxruntime took.

        Args:
            picture: (height, width, channels) uint8, as `gemkit.pictures.read_picture` gives it.
        """
        batch = exporter.fixed_batch(self.session) or 1
        pixels = np.repeat(picture[None], batch, axis=0)
        inputs = self.info.normalise(pixels)
        start = time.perf_counter()
        output = exporter.run(self.session, inputs)[0].astype(np.float64)
        milliseconds = 1000 * (time.perf_counter() - start)
        if not self.info.softmax:
            output = np.exp(output - output.max())
            output /= output.sum()
        return output, milliseconds
