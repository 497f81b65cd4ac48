"""`gemkit predict`: classify pictures with an ONNX file that gemkit wrote, by onnxruntime alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.export import exporter, timing
from gemkit.files import is_file
from gemkit.pictures import fit_image, open_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

MAX_PIXELS = 40_000_000
"""Pictures with more pixels are refused: they could fill the memory."""


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
            session = timing.open_session(str(path), 1, "CPUExecutionProvider")
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

    def classify(self, image: "Image") -> tuple[NDArray[np.float64], float]:
        """Probabilities of the classes (classes,) and the milliseconds that onnxruntime took."""
        batch = exporter.fixed_batch(self.session) or 1
        pixels = np.repeat(fit_image(image, self.info.input_shape)[None], batch, axis=0)
        inputs = self.info.normalise(pixels)
        start = time.perf_counter()
        output = exporter.run(self.session, inputs)[0].astype(np.float64)
        milliseconds = 1000 * (time.perf_counter() - start)
        if not self.info.softmax:
            output = np.exp(output - output.max())
            output /= output.sum()
        return output, milliseconds


def open_picture(path: Path) -> "Image":
    """Read a picture.

    Raises:
        UserError: it is missing, no picture, damaged or far too large; the sentence names it.
    """
    from PIL import Image, UnidentifiedImageError

    if not is_file(path):
        raise UserError(f"there is no picture {path}")
    try:
        image = open_image(path)
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{path} has {image.width}x{image.height} pixels: "
                f"at most {MAX_PIXELS // 1_000_000} million are read"
            )
        image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise UserError(f"{path} is no picture that can be read (PNG, JPEG and so on)") from None
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        reason = " ".join(str(error).lower().split()) or type(error).__name__
        raise UserError(f"{path} is a damaged picture: {reason}") from None
    return image


def predict(
    model: Path, images: Sequence[Path], top: int, console: "Console"
) -> list[dict[str, Any]]:
    """Print the most probable classes of pictures.

    Returns:
        per picture `image`, `classes` (name and probability, most probable first) and
        `milliseconds`.

    Raises:
        UserError: the model or a picture cannot be read; nothing is printed then.
    """
    classifier = Classifier.open(model)
    pictures = [open_picture(path) for path in images]
    found: list[dict[str, Any]] = []
    for path, picture in zip(images, pictures, strict=True):
        probabilities, milliseconds = classifier.classify(picture)
        order = np.argsort(-probabilities, kind="stable")[:top]
        classes = [
            {"name": classifier.info.class_names[index], "probability": float(probabilities[index])}
            for index in order
        ]
        found.append({"image": str(path), "classes": classes, "milliseconds": milliseconds})
        named = ", ".join(
            f"{entry['name']} {100 * entry['probability']:.1f} %" for entry in classes
        )
        console.print(f"{path}: {named}")
    return found
