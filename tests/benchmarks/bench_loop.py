"""What a search spends on deciding, beside what it spends on training, by its own records.

python tests/benchmarks/bench_loop.py [DATA [TRIALS]]
"""

import sys
import tempfile
from pathlib import Path

from row import Row


def share(data: str, trials: int) -> tuple[float, float, int]:
    """Seconds of proposing and of training in a search by one worker, and the rounds it took."""
    from rich.console import Console

    from gemkit.app.steps.search import search

    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with search(data, out=path, trials=trials, workers=1, seed=0, console=quiet) as run:
            ended = run.trials()
            spent = sum(trial.seconds or 0.0 for trial in ended)
            rounds = max(trial.round for trial in ended) + 1
            return run.setting("proposing_seconds", float, 0.0), spent, rounds


def rows(data: str = "digits", trials: int = 8) -> list[Row]:
    """The share of proposals, against its bar."""
    proposing, training, rounds = share(data, trials)
    note = f"{proposing:.2f} s for {rounds} rounds, {training:.1f} s of training"
    name = f"search, {trials} trials on {data}: proposing as a share of training"
    return [Row(name, proposing / training, None, "", 0.05, note=note)]


if __name__ == "__main__":
    for row in rows(*sys.argv[1:2], *map(int, sys.argv[2:3])):
        print(row.name, row.ours, row.note)
