"""Which files a visitor may name: what was uploaded to this page, and nothing else.

Gradio takes a file as a dictionary with a path or an address, reads or fetches what is named, and
gives it back under a new name. So such dictionaries are looked at before Gradio sees them.
"""

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_SERVED_AT = "/gradio_api/file="


@functools.cache
def upload_folder() -> str:
    """This process's own folder for uploads, made on first call and removed at its end.

    Gradio would share one with every other application of the machine.
    """
    folder = os.path.realpath(tempfile.mkdtemp(prefix="gemkit-page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder
    return folder


def is_upload(path: str) -> bool:
    """Whether a path names a regular file of the upload folder, without links or detours."""
    folder = Path(upload_folder())
    try:
        return (
            folder in Path(path).parents
            and os.path.realpath(path) == path
            and stat.S_ISREG(os.lstat(path).st_mode)
        )
    except (OSError, ValueError):
        return False


def served_path(address: str) -> str | None:
    """The file that one of the page's own addresses names; None for other addresses."""
    _, found, path = address.partition(_SERVED_AT)
    return path if found else None


def names_only_uploads(value: Any) -> bool:
    """Whether everything in a decoded JSON value that Gradio could take for a file is an upload."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if not _is_harmless(one.get("path"), one.get("url")):
                return False
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return True


def _is_harmless(path: Any, url: Any) -> bool:
    """Whether a dictionary with these entries names no file, or an upload and only that."""
    if path is None and url is None:
        return True
    if not isinstance(path, str) or not is_upload(path):
        return False
    # The page's script sends the address of the same file along.
    return url is None or (isinstance(url, str) and unquote(served_path(url) or "") == path)
