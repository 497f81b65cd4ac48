"""The result of a comparison from what its store holds: what `compare.json` is."""

from collections.abc import Sequence

from gemkit.data import Dataset
from gemkit.recipe import Recipe
from gemkit.store import Run

from ..comparison import (
    FOUND,
    NARROW,
    ComparedNetwork,
    Comparison,
    better_by,
    kind,
    mean_interval,
)
from .compare_entrants import Entrant


def result(run: Run, entrants: Sequence[Entrant], dataset: Dataset, recipe: Recipe) -> Comparison:
    """Accuracies by seed, their means and intervals, differences, costs and what made them."""
    stored = {one.id: one for one in run.compared()}
    measured = {one.network: one for one in stored.values() if one.measurements}
    accuracies = {
        entrant.name: {
            job.seed: accuracy
            for job in entrant.jobs
            if job.name in stored and (accuracy := stored[job.name].accuracy) is not None
        }
        for entrant in entrants
    }
    networks = []
    for entrant in entrants:
        own = accuracies[entrant.name]
        of_it = [stored[job.name] for job in entrant.jobs if job.name in stored]
        known = measured.get(entrant.name)
        mean, low, high = mean_interval(list(own.values())) if own else (None, None, None)
        better = {
            ours: None
            if entrant.name in (FOUND, NARROW)
            else better_by(accuracies.get(ours, {}), own)
            for ours in (FOUND, NARROW)
        }
        networks.append(
            ComparedNetwork(
                id=entrant.name,
                kind=kind(entrant.name),
                macs=entrant.macs,
                params=entrant.params,
                peak_memory_bytes=None if known is None else known.peak_memory_bytes,
                latency_ms=None if known is None else known.latency_ms,
                onnx=None if known is None else known.onnx,
                accuracies={str(seed): value for seed, value in own.items()},
                accuracy=mean,
                interval=None if low is None or high is None else (max(low, 0.0), min(high, 1.0)),
                found_better_by=better[FOUND],
                narrow_better_by=better[NARROW],
                errors=tuple(one.error for one in of_it if one.error),
                seconds=sum(one.seconds or 0.0 for one in of_it),
                cells=tuple(
                    job.architecture.to_json()
                    for job in entrant.jobs
                    if job.architecture is not None
                ),
            )
        )
    return Comparison(
        data=dataset.name,
        train=len(dataset.y_train),
        test=len(dataset.y_test),
        max_macs=run.budget.macs or 0,
        share=run.config["share"],
        seeds=tuple(sorted({job.seed for entrant in entrants for job in entrant.jobs})),
        recipe=recipe.to_json(),
        config=run.config,
        machine=run.info.machine,
        versions=run.info.versions,
        networks=tuple(networks),
    )
