"""`gemkit predict`: classify pictures with an ONNX file that gemkit wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemkit.errors import UserError
from gemkit.pictures import PictureError, read_picture

from ..classifier import Classifier

if TYPE_CHECKING:
    from rich.console import Console


def predict(
    model: Path, images: Sequence[Path], top: int, console: "Console"
) -> list[dict[str, Any]]:
    """Print the most probable classes of pictures, one after the other.

    Returns:
        per picture `image`, `classes` (name and probability, most probable first) and
        `milliseconds`; of one that cannot be used `image` and `error`.

    Raises:
        UserError: the model cannot be read.
    """
    classifier = Classifier.open(model)
    found: list[dict[str, Any]] = []
    for path in images:
        try:
            picture = read_picture(path, classifier.info.input_shape)
        except PictureError as error:
            found.append({"image": str(path), "error": str(error)})
            continue
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


def check_all_used(found: Sequence[dict[str, Any]]) -> None:
    """Make sure that every picture was classified.

    Raises:
        UserError: some could not be used; the first five are named.
    """
    errors = [entry["error"] for entry in found if "error" in entry]
    if errors:
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise UserError("; ".join(errors[:5]) + more)
