"""A live NASGEM search beside random cells of the same cost, on the task of `experiments/pool.py`.

    OMP_NUM_THREADS=1 python experiments/search_live.py [--trials 40] [--seeds 2]

Writes `results/search_live.json` after every training; a run that was stopped goes on. Each search
trains `--trials` cells of up to 30 nodes, `BATCH` a round. Its random counterpart are as many cells
that the pool drew anew (no mutants), trained in the same way; every search gets other ones where
the pool has enough. In the end the best `TOP` cells of either side are trained again from `AGAIN`
other seeds: so a lucky first training does not count.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pool
from numpy.typing import NDArray

from gemkit.architecture import Architecture
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.search import encoder
from gemkit.search.interfaces import Graphs, History
from gemkit.search.strategies import strategy

RESULTS = pool.ROOT / "results" / "search_live.json"
BATCH, INITIAL, TOP, AGAIN = 4, 10, 3, 3
CANDIDATES = {"random": 5000, "mutants": 1250, "crossovers": 600}


def embedding(graphs: Graphs) -> NDArray[np.float32]:
    return encoder.embed(encoder.default_encoder(), graphs.labels, graphs.adjacency)


def proposals(entries: list[dict[str, Any]], count: int, seed: int) -> list[Architecture]:
    """The next cells of the search with these trials."""
    propose = strategy("nasgem", embedding, initial=INITIAL, roles=False, **CANDIDATES)
    history = History()
    if entries:
        cells = [pool.unpacked(entry) for entry in entries]
        known = pool.SPACE.restored(cells, [entry["width"] for entry in entries])
        history = History(known, np.array([entry["accuracy"] for entry in entries]))
    found = propose(pool.SPACE, history, count, np.random.default_rng([seed, len(entries)]))
    return [pool.SPACE.architecture(found, index) for index in range(len(found))]


def trained_again(side: dict[str, Any], images: Path, store: Any) -> None:
    """Fill in the further trainings of a side's best cells."""
    trials = side["trials"]
    best = sorted(range(len(trials)), key=lambda place: -trials[place]["accuracy"])[:TOP]
    for place in best:
        entry = trials[place]
        network = pool.network_of(entry)
        again = entry.setdefault("again", [])
        while len(again) < AGAIN:
            again.append(pool.accuracy_of(network, 2_000_000 + len(again), images)[0])
            store()
    side["again"] = float(np.mean([trials[place]["again"] for place in best]))
    side["best"] = max(entry["accuracy"] for entry in trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=Path, default=pool.IMAGES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not (options.images.exists() and pool.RESULTS.exists()):
        print(f"skipped: it needs {options.images} and {pool.RESULTS}")
        return
    drawn = [one for one in read_json(pool.RESULTS)["cells"] if one["parent"] is None]
    if len(drawn) < options.trials:
        print(f"skipped: the pool has {len(drawn)} random cells, {options.trials} are needed")
        return
    report = read_json(options.out) if options.out.exists() else {"searches": {}, "random": {}}
    report |= {"trials": options.trials, "machine": describe_machine(), "versions": versions()}

    def store() -> None:
        write_json(options.out, report)

    for seed in range(options.seeds):
        trials = report["searches"].setdefault(str(seed), {"trials": []})["trials"]
        while len(trials) < options.trials:
            # What a round proposes depends on the trials before the round alone.
            start = len(trials) - len(trials) % BATCH
            count = min(BATCH, options.trials - start)
            for network in proposals(trials[:start], count, seed)[len(trials) - start :]:
                accuracy, seconds = pool.accuracy_of(
                    network, 1_000 * (seed + 1) + len(trials), options.images
                )
                trials.append(
                    {
                        **pool.packed(network.cells[0]),
                        "width": network.width,
                        "accuracy": accuracy,
                        "seconds": round(seconds, 2),
                    }
                )
                store()
                print(f"search {seed}, trial {len(trials)}: {accuracy:.4f}", flush=True)
        places = np.random.default_rng(seed).permutation(len(drawn))[: options.trials]
        kept = report["random"].setdefault(str(seed), {})
        kept.setdefault(
            "trials",
            [
                {name: drawn[place][name] for name in ("operations", "edges", "width", "accuracy")}
                for place in places
            ],
        )
        for side in (report["searches"][str(seed)], kept):
            trained_again(side, options.images, store)
        store()
    for seed in range(options.seeds):
        found, chance = report["searches"][str(seed)], report["random"][str(seed)]
        print(
            f"seed {seed}: search best {found['best']:.4f}, again {found['again']:.4f}; "
            f"random best {chance['best']:.4f}, again {chance['again']:.4f}"
        )


if __name__ == "__main__":
    main()
