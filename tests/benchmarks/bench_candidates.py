"""A round's proposal from a million candidates: drawn, costed, scaled, embedded, predicted, chosen.

python tests/benchmarks/bench_candidates.py [COUNT]
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from row import Row

COUNT = 1_000_000
THREADS = 2
TRIALS = 100
"""Trials that the predictor has learned from, as late in a search."""


def measure(count: int) -> dict[str, float]:
    """Seconds and peak memory of this process, which does nothing else."""
    import numpy as np

    from gemkit.architecture import skeleton_for
    from gemkit.budget import Budget
    from gemkit.search.cell_space import CellSpace
    from gemkit.search.encoder import default_encoder, embed
    from gemkit.search.interfaces import History
    from gemkit.search.strategies import strategy

    budget = Budget(macs=20_000_000, params=500_000, memory_bytes=1_000_000)
    space = CellSpace(skeleton_for((3, 32, 32), 10), budget)
    encoder = default_encoder()
    rng = np.random.default_rng()
    trials = space.sample(rng, TRIALS)
    accuracies = 0.5 + 0.01 * (trials.graphs.labels == 2).sum(axis=1) + 0.02 * rng.random(TRIALS)
    propose = strategy(  # as `gemkit search` makes it
        "nasgem",
        lambda graphs: embed(encoder, graphs.labels, graphs.adjacency),
        roles=False,
        random=count,
        mutants=20_000,
        crossovers=10_000,
    )
    started, used = time.perf_counter(), time.process_time()
    assert len(propose(space, History(trials, accuracies), 8, rng)) == 8
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - used,
        # Kilobytes on Linux, bytes on macOS.
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
    }


def rows() -> list[Row]:
    """Seconds and peak memory, each against its bar, measured in a process of its own."""
    result = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), str(COUNT)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},
    )
    found = json.loads(result.stdout)
    note = (
        f"{THREADS} threads, {found['processor_seconds']:.0f} s of processor time; cells of 1 to "
        f"30 nodes, 3 budgets, predictor fitted to {TRIALS} trials"
    )
    name = f"a round's proposal from {COUNT:,} candidates"
    return [
        Row(name, found["seconds"], None, "s", 60.0, note=note),
        Row(f"{name}, peak memory", found["peak_bytes"] / 1e9, None, "GB", 2.0),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)))
