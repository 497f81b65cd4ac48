"""The result of a comparison from what its store holds: what `compare.json` is."""

from collections.abc import Sequence
from typing import Any

from gemkit.data import Dataset
from gemkit.recipe import Recipe
from gemkit.store import Run

from ..comparison import FOUND, NARROW, better_by, kind, mean_interval
from .compare_entrants import Entrant


def result(
    run: Run, entrants: Sequence[Entrant], dataset: Dataset, recipe: Recipe
) -> dict[str, Any]:
    """Accuracies by seed, their means and intervals, differences, costs and what made them."""
    rows = {row["id"]: row for row in run.baselines()}
    measured = run.setting("measured", {})
    accuracies = {
        entrant.name: {
            job.seed: rows[job.name]["accuracy"]
            for job in entrant.jobs
            if rows.get(job.name, {}).get("accuracy") is not None
        }
        for entrant in entrants
    }
    networks = []
    for entrant in entrants:
        own = accuracies[entrant.name]
        of_it = [rows[job.name] for job in entrant.jobs if job.name in rows]
        known = measured.get(entrant.name, {})
        entry: dict[str, Any] = {
            "id": entrant.name,
            "kind": kind(entrant.name),
            "macs": entrant.macs,
            "params": entrant.params,
            "peak_memory_bytes": known.get("peak_memory_bytes"),
            "latency_ms": known.get("latency_ms"),
            "onnx": known.get("onnx"),
            "accuracies": {str(seed): value for seed, value in own.items()},
            "accuracy": None,
            "interval": None,
            "found_better_by": None,
            "narrow_better_by": None,
            "errors": [row["error"] for row in of_it if row["error"]],
            "seconds": sum(row["seconds"] or 0.0 for row in of_it),
            "cells": [
                job.architecture.to_json() for job in entrant.jobs if job.architecture is not None
            ],
        }
        if own:
            mean, low, high = mean_interval(list(own.values()))
            entry["accuracy"] = mean
            if low is not None and high is not None:
                entry["interval"] = [max(low, 0.0), min(high, 1.0)]
        if entrant.name not in (FOUND, NARROW):
            for ours in (FOUND, NARROW):
                entry[f"{ours}_better_by"] = better_by(accuracies.get(ours, {}), own)
        networks.append(entry)
    return {
        "data": dataset.name,
        "train": len(dataset.y_train),
        "test": len(dataset.y_test),
        "max_macs": run.budget.macs,
        "share": run.config["share"],
        "seeds": sorted({job.seed for entrant in entrants for job in entrant.jobs}),
        "taken_over": run.setting("taken_over", 0),
        "recipe": recipe.to_json(),
        "config": run.config,
        "machine": run.about["machine"],
        "versions": run.about["versions"],
        "networks": networks,
    }
