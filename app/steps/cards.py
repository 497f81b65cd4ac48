"""The cards of a run's models."""

from collections.abc import Sequence
from pathlib import Path

from gemkit.export.card import write_card
from gemkit.records import DataInfo, Measurement, Model, Scalar
from gemkit.store import Run

from .. import formatting
from .convert import files_of


def write_model_card(
    run: Run,
    model: Model,
    path: Path,
    card: Path,
    measurements: Sequence[Measurement] = (),
) -> None:
    """Write the card of a run's model for its ONNX file at `path`."""
    data = run.setting("data", DataInfo)
    recipe = model.recipe or run.setting("recipe", dict[str, Scalar], {})
    write_card(
        card,
        path,
        data=data.name if data else run.config["data"],
        accuracy=model.accuracy,
        test_images=data.test if data else None,
        training=f"{model.epochs} epochs, recipe {recipe.get('recipe')}, seed {model.seed}",
        budget=run.budget,
        parity_max_abs=model.parity_max_abs,
        measurements=measurements,
        files=files_of(path)[1:],
        elsewhere=formatting.on_target(model),
    )
