"""Files that are either whole or not there: written beside their place, then renamed."""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(error: OSError, path: Path) -> UserError:
    """Turn an operating system's refusal into one sentence that names `path`."""
    if error.errno in _FULL:
        return UserError(f"the disk is full: {path} could not be written; free some space")
    if error.errno in _FORBIDDEN:
        return UserError(f"{path} cannot be written: choose a folder with write permission")
    return UserError(f"{path} cannot be written: {_reason(error)}")


def unreadable(error: OSError, path: Path) -> UserError:
    """The sentence for a file or folder that cannot be read."""
    return UserError(f"{path} cannot be read: {_reason(error)}")


def is_file(path: Path) -> bool:
    """Whether there is a file, as `Path.is_file` says where it may be asked.

    Raises:
        UserError: that cannot be known: a folder on the way may not be entered, or a name is longer
            than the system allows.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise unreadable(error, path) from None


def is_folder(path: Path) -> bool:
    """Whether there is a folder, as `Path.is_dir` says where it may be asked.

    Raises:
        UserError: as `is_file`.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise unreadable(error, path) from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends well.

    The file's content is flushed to the disk before the renaming, so that a crash leaves either
    the old file or the new one. When the block raises, the temporary file is removed and `path`
    is left as it was.

    Raises:
        UserError: the folder is not writable or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{path.suffix}"
        # Readable by whom any new file is: the umask belongs to the process, not to this thread.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise explain(error, path) from None
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _FULL | _FORBIDDEN:
            raise explain(error, path) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, unreadable or no JSON; the sentence names it.
    """
    try:
        content = Path(path).read_bytes()
        # Editors and shells on Windows begin texts with a byte order mark, or write UTF-16.
        text = content.decode(json.detect_encoding(content))
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise unreadable(error, path) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no JSON file: it is no text of Unicode") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path} is no valid JSON{place}") from None


def _finite(text: str) -> float:
    """A number of a JSON file; NaN and infinity, which Python would read, are none in JSON."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


def check_format(found: object, known: int, where: str) -> None:
    """Make sure that something read from a file has a format that this gemkit reads.

    Args:
        found: the `format` it names; 1 is given where files were once written without one.
        known: the newest format that this gemkit reads. All formats before it are read as well:
            a reader that gives one up refuses it here.
        where: what names the format, for the sentence.

    Raises:
        UserError: the format is a newer one, or none.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{where} is damaged: it names no format")
    if found > known:
        raise UserError(
            f"{where} was written by a newer gemkit (format {found}, this one reads {known}): "
            "update gemkit to open it"
        )


def data_folder() -> Path:
    """Where data files are looked for, and kept once they are downloaded or decoded:
    `$GEMKIT_DATA`, or `~/.cache/gemkit` where that is not set."""
    named = os.environ.get("GEMKIT_DATA")
    return Path(os.path.expanduser(named)) if named else Path.home() / ".cache" / "gemkit"


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a .npz file.

    Raises:
        UserError: the file is missing, damaged or of another kind, or holds pickled objects; the
            sentence names the file and, inside it, the array.
    """
    if not is_file(path):
        raise UserError(f"{path} does not exist: a NumPy .npz file is needed")
    broken = f"{path} is no whole .npz file: it is damaged, cut off or of another kind"
    try:
        with path.open("rb") as opened:
            start = opened.read(6)
    except OSError as error:
        raise unreadable(error, path) from None
    if start == b"\x93NUMPY":
        raise UserError(f"{path} is a single array: save it with numpy.savez")
    if not start.startswith(b"PK"):
        raise UserError(f"{broken} (a pickle is never loaded)")
    arrays: dict[str, NDArray[Any]] = {}
    place = "its list of arrays"
    # zipfile, zlib and NumPy's own parser raise a dozen kinds of exceptions on damaged bytes.
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                place = repr(name)
                found = file[name]
                if not isinstance(found, np.ndarray):  # NumPy gives other members as bytes
                    raise TypeError(name)
                arrays[name] = found
    except Exception as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: {place} holds Python objects, which gemkit never loads; "
                "save numbers (uint8 images, integer labels) or text"
            ) from None
        raise UserError(f"{broken} (at {place})") from None
    return arrays
