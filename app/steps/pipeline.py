"""The steps from data to measured ONNX files, as functions.

    run = search("digits", Budget(macs=3_000_000, params=100_000), out="runs/first")
    models = train(run)
    export(run)
    bench(run)

or all of them by `run`. Each step works on what the one before left in the run's folder, and can
be repeated: what is done already is left alone.
"""

from typing import Any

from rich.console import Console

from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.store import Run

from ..terminal.progress import default_console
from .bench import bench
from .export import export
from .search import default_out, search
from .train import RECIPE, TOP, narrowed, train

__all__ = ["bench", "default_out", "export", "narrowed", "run", "search", "train"]


def run(
    data: str = "digits",
    budget: Budget | None = None,
    *,
    top: int = TOP,
    recipe: str = RECIPE,
    epochs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """All steps: search, train the best, export, measure, report. Arguments as theirs."""
    console = console or default_console()
    found = search(
        data,
        budget,
        epochs=epochs,
        device=device,
        workers=workers,
        resume=resume,
        console=console,
        hint=False,
        **options,
    )
    path = found.path
    found.close()
    chosen: dict[str, Any] = {"top": top, "recipe": recipe, "epochs": epochs, "device": device}
    delivered: list[dict[str, Any]] = []
    known = -1
    while True:
        models = train(path, workers=workers, console=console, hint=False, **chosen)
        if len(models) == known:  # no other network is left to take a refused one's place
            break
        known = len(models)
        delivered = [model for model in export(path, console=console, hint=False) if model["onnx"]]
        if len(delivered) >= top:
            break
    if not delivered:
        with Run.open(path) as opened:
            reasons = [str(model["error"]) for model in opened.models() if model["error"]]
        raise UserError(
            f"no network could be delivered within the budget ({'; '.join(reasons[:3])}): "
            f"allow more, or more trials; what was tried is in {path}"
        )
    bench(path, console=console)
    return Run.open(path)
