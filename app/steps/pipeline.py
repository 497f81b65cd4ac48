"""`gemkit run`: the steps from data to measured ONNX files, one after the other.

Each step works on what the one before left in the run's folder, and can be repeated: what is done
already is left alone.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from gemkit.budget import Budget
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.recipe import trial_epochs
from gemkit.records import Model
from gemkit.store import Run

from ..runs import data_of
from ..terminal.progress import default_console
from . import teaching
from .bench import bench
from .export import export
from .export_c import for_board
from .search import search
from .train import TOP, train


def run(
    data: str = "digits",
    budget: Budget | None = None,
    *,
    top: int = TOP,
    recipe: str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    teacher: str | None = None,
    unlabelled: Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """All steps: search, train the best, export, measure, report.

    The run is opened and its data are loaded once, for all of them. Arguments as theirs.

    Returns:
        the run, open for writing.

    Raises:
        UserError: as the steps do, or no network could be delivered within the budget.
    """
    console = console or default_console()
    if unlabelled is not None and teacher is None:
        raise UserError("--unlabelled: pictures without labels need a --teacher")
    shared: dict[str, Any] = {"dataset": load(data), "console": console}
    if teacher is not None:  # before the search spends its time
        teaching.check(teacher, unlabelled, shared["dataset"])
    training: dict[str, Any] = {"epochs": epochs, "device": device, "workers": workers}
    short = {**training, "epochs": epochs or trial_epochs(recipe)}
    found = search(data, budget, **short, **options, **shared)
    try:
        if data_of(found) != data:  # its networks were trained on other data before
            shared["dataset"] = load(data_of(found))
        delivered: list[Model] = []
        known = -1
        while True:
            models = train(
                found, top=top, recipe=recipe, teacher=teacher, unlabelled=unlabelled,
                **training, **shared,
            )  # fmt: skip
            if len(models) == known:  # no other network is left to take a refused one's place
                break
            known = len(models)
            networks = export(found, **shared).networks
            delivered = [one for one in networks if isinstance(one, Model) and one.onnx]
            if len(delivered) >= top:
                break
        if not any(one.onnx for one in networks):
            reasons = [model.error for model in found.models() if model.error]
            raise UserError(
                f"no network could be delivered within the budget ({'; '.join(reasons[:3])}): "
                f"allow more, or more trials; what was tried is in {found.path}"
            )
        for_board(found, networks, shared["dataset"], console)
        bench(found, console=console)
    except BaseException:
        found.close()
        raise
    return found
