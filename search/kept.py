"""Long work in pieces, each result kept as it comes: cut off, it goes on where it stopped."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemkit.errors import UserError
from gemkit.files import read_json, write_json
from gemkit.workers import Workers

Progress = Callable[[str, int, int], None]
"""(what, done, of how many)."""
Piece = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""Name, function and arguments of what `Kept` does and remembers."""


class Kept:
    """Finished pieces by name, in a JSON file if one is given."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        self.found: dict[str, Any] = {}
        if path is not None and Path(path).is_file():
            stored = read_json(Path(path))
            if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
                raise UserError(f"{path} is no file of results: choose another place")
            for name in sorted({*self.settings, *stored["settings"]}):
                before, now = stored["settings"].get(name), self.settings.get(name)
                if before != now:
                    raise UserError(
                        f"{path} holds the results of another run ({name} was {before}, now "
                        f"{now}): choose another place"
                    )
            if not isinstance(stored.get("found"), dict):
                raise UserError(f"{path} is damaged: remove it to begin again")
            self.found = stored["found"]

    def complete(
        self,
        todo: Sequence[Piece],
        workers: int,
        progress: Progress | None,
    ) -> None:
        """Do what is not found yet."""
        left = [piece for piece in todo if piece[0] not in self.found]
        done = len(todo) - len(left)
        for name, value in _carried_out(left, workers):
            self.found[name] = value
            done += 1
            self._store()
            if progress:
                progress(name, done, len(todo))

    def _store(self) -> None:
        if self.path is not None:
            write_json(Path(self.path), {"settings": self.settings, "found": self.found})


def _carried_out(pieces: Sequence[Piece], workers: int) -> Iterator[tuple[str, Any]]:
    if workers <= 1 or len(pieces) < 2:
        for name, function, arguments in pieces:
            yield name, function(*arguments)
        return
    waiting = deque(pieces)
    with _single_threaded(), Workers.local(workers) as running:
        while waiting or running.running:
            while waiting and running.idle:
                name, function, arguments = waiting.popleft()
                running.submit(name, function, *arguments)
            ended = running.next()
            assert ended is not None
            if ended.died:
                raise UserError(f"{ended.key}: {ended.died}")
            yield ended.key, ended.value


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside compute on one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
