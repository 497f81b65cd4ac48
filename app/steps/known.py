"""Which known network is trained beside the found ones: the best of a few after a trial.

They get the user's own limits, never the cost of what was found, and the same short training on
the same images as a candidate of the search.
"""

import torch
from rich.console import Console

from gemkit.baselines import baseline
from gemkit.data import Dataset, proxy_split
from gemkit.errors import UserError
from gemkit.recipe import RECIPES
from gemkit.records import Limits, plain
from gemkit.store import Run
from gemkit.train import TrainingFailed, alone, train

from .. import formatting

NAMES = ("resnet20", "resnet8", "mobilenet_v3_small")
"""Those that were the best of their kind at 3 to 40 M MACs."""
_SETTING = "known_trials"


def strongest(
    run: Run, dataset: Dataset, limits: Limits, largest_batch: int, console: Console
) -> str | None:
    """The name of the best, None where none can be made so small.

    What each reached is kept in the run, so that none is trained twice.

    Args:
        largest_batch: of the final trainings; a machine may not hold more at once.
    """
    found: dict[str, float] = run.setting(_SETTING, dict[str, float], {})
    for name in NAMES:
        if name not in found:
            found[name] = _tried(name, run, dataset, limits, largest_batch)
            run.set_setting(_SETTING, found)
    fitting = {name: accuracy for name, accuracy in found.items() if accuracy >= 0}
    if not fitting:
        return None
    said = ", ".join(f"{name} {formatting.percent(value)}" for name, value in fitting.items())
    console.print(f"known networks after a trial each: {said}")
    return max(fitting, key=lambda name: fitting[name])


def _tried(name: str, run: Run, dataset: Dataset, limits: Limits, largest_batch: int) -> float:
    """Accuracy on the validation part of the search's images; -1 where it does not fit or fails."""
    torch.manual_seed(run.seed)
    try:
        network = baseline(name, dataset.input_shape, dataset.classes, **plain(limits))
    except UserError:
        return -1.0
    split = proxy_split(dataset, run.seed)
    recipe = RECIPES["proxy"]
    try:
        with alone():  # only the first of several processes comes here
            trained = train(
                network,
                split.x_train,
                split.y_train,
                split.x_validation,
                split.y_validation,
                recipe=recipe.changed(
                    run.config.get("epochs"), min(recipe.batch_size, largest_batch)
                ),
                mean=dataset.mean,
                std=dataset.std,
                seed=run.seed,
                device=run.config.get("device", "auto"),
            )
    except TrainingFailed:
        return -1.0
    return trained.accuracy
