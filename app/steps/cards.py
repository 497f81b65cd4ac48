"""The cards of a run's networks."""

from collections.abc import Sequence
from pathlib import Path

from gemkit.export.card import write_card
from gemkit.records import DataInfo, Measurement, Network, Scalar
from gemkit.store import Run

from .. import formatting
from .convert import files_of


def write_network_card(
    run: Run,
    network: Network,
    path: Path,
    card: Path,
    measurements: Sequence[Measurement] = (),
) -> None:
    """Write the card of a run's network for its ONNX file at `path`."""
    data = run.setting("data", DataInfo)
    recipe = network.recipe or run.setting("recipe", dict[str, Scalar], {})
    write_card(
        card,
        path,
        data=data.name if data else run.config["data"],
        accuracy=network.accuracy,
        test_images=data.test if data else None,
        training=f"{network.epochs} epochs, recipe {recipe.get('recipe')}, seed {network.seed}",
        budget=run.budget,
        parity_max_abs=network.parity_max_abs,
        measurements=measurements,
        files=files_of(path)[1:],
        elsewhere=formatting.on_target(network),
    )
