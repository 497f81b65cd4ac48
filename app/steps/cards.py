"""The cards of a run's models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemkit.export.card import write_card
from gemkit.store import Run

from .. import formatting
from .convert import files_of


def write_model_card(
    run: Run,
    entry: Mapping[str, Any],
    path: Path,
    card: Path,
    measurements: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the card of a run's model for its ONNX file at `path`."""
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
