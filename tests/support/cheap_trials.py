"""A search without training: stand-ins for a proxy trial, importable by worker processes.

Nothing here imports torch, so that processes start quickly.
"""

import os
import random
import time
import zlib
from pathlib import Path

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.search.cell_space import CellSpace
from gemkit.search.interfaces import Outcome
from gemkit.search.loop import Plan
from gemkit.search.strategies import Evolution
from gemkit.store import Run

BUDGET = Budget(macs=2_000_000, params=50_000)
SPACE = CellSpace(skeleton_for((1, 8, 8), 10), BUDGET)
EVOLUTION = Evolution(population=8, tournament=3, initial=4)
PLAN = Plan(trials=14, per_round=4, epochs=2, promoted=3, promoted_epochs=5)


def begin(path: Path | str, seed: int) -> Run:
    return Run.start(path, {"budget": BUDGET.to_json(), "seed": seed}, resume=True)


def by_cell(architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """An accuracy that depends on the cell, the seed and the epochs, as a real one does."""
    cell = architecture.cells[0]
    share = cell.operations.count("sep3x3") / cell.nodes
    noise = zlib.crc32(f"{cell.key} {seed}".encode()) / 2**32
    return Outcome(0.5 + 0.3 * share + 0.1 * noise + 0.01 * epochs, None, 0.001)


def opposite(architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """As `by_cell`, with the best cells the worst."""
    accuracy = by_cell(architecture, seed, epochs).accuracy
    assert accuracy is not None
    return Outcome(1 - accuracy, None, 0.001)


def slowly(folder: Path, architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """As `by_cell`, after a tenth of a second; leaves its process id in the folder."""
    (folder / str(os.getpid())).touch()
    time.sleep(0.1)
    return by_cell(architecture, seed, epochs)


def at_random_speed(architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """As `by_cell`; trials end in another order than they began."""
    time.sleep(random.random() * 0.02)
    return by_cell(architecture, seed, epochs)


def failing(spared: int, architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """Cells of even size fail, but not the trial with the spared seed."""
    if architecture.cells[0].nodes % 2 == 0 and seed != spared:
        return Outcome(None, "the loss is not finite", 0.001)
    return by_cell(architecture, seed, epochs)


def always_failing(architecture: Architecture, seed: int, epochs: int) -> Outcome:
    return Outcome(None, "nothing works", 0.001)


def dying(spared: int, architecture: Architecture, seed: int, epochs: int) -> Outcome:
    """Every fourth key takes its process down, but not that of the trial with the spared seed."""
    time.sleep(0.02)
    if int(architecture.cells[0].key, 16) % 4 == 0 and seed != spared:
        os._exit(1)
    return by_cell(architecture, seed, epochs)
