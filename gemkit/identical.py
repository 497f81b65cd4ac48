"""Which files hold the same, found without reading most of them."""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from gemkit.errors import UserError
from gemkit.files import data_folder, read_json, write_json

_SAMPLE_BYTES = 4096
KEPT_FROM = 50_000  # files, which take seconds to compare where the disk is quick


def identical(files: Iterable[Path]) -> list[list[Path]]:
    """Groups of two and more files with the same content; most files are not read for it.

    What was found of many files is kept in the data folder for the next process.
    """
    groups = [list(files)]
    kept = None
    if len(groups[0]) >= KEPT_FROM:
        kept = data_folder() / "identical" / f"{_state(groups[0])}.json"
        with contextlib.suppress(UserError, OSError, TypeError, ValueError, IndexError):
            return [[groups[0][row] for row in group] for group in read_json(kept)]
    rows = {path: row for row, path in enumerate(groups[0])}
    for key in (_size, _ends, _digest):
        groups = [same for group in groups for same in _grouped(group, key)]
    if kept is not None:
        with contextlib.suppress(UserError):  # a full disk makes it slower, no more
            write_json(kept, [[rows[path] for path in group] for group in groups])
    return groups


def _state(files: Iterable[Path]) -> str:
    """Changes whenever a file does."""
    digest = hashlib.blake2b(digest_size=12)
    for path in files:
        digest.update(os.fsencode(path.absolute()))
        with contextlib.suppress(OSError):
            state = path.stat()
            digest.update(b"\0%d\0%d\n" % (state.st_size, state.st_mtime_ns))
    return digest.hexdigest()


def _grouped(files: list[Path], key: Callable[[Path], object]) -> list[list[Path]]:
    groups: dict[object, list[Path]] = defaultdict(list)
    for path in files:
        try:
            groups[key(path)].append(path)
        except OSError:  # said where it is decoded
            continue
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_SAMPLE_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SAMPLE_BYTES))
        return start + file.read(_SAMPLE_BYTES)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
