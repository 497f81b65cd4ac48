"""What worker processes are given to do; they can import it."""

import os
import time
from pathlib import Path

from gemkit.workers import worker_number


def leave_number(folder: Path, key: int) -> int:
    """Wait for the other worker, so that both are there; then say which this one is."""
    (folder / str(key)).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return worker_number()


def dies_beside(folder: Path) -> None:
    """Take the process down as soon as the other call runs."""
    while not (folder / "waits").exists():
        time.sleep(0.01)
    os._exit(1)


def waits_once(folder: Path) -> None:
    """Run until something ends this process; the second time, end at once."""
    if not (folder / "waits").exists():
        (folder / "waits").touch()
        time.sleep(600)
