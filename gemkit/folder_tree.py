"""The pictures in a folder and the folders in it, and what is left out of them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gemkit.files import is_file, unreadable, write_bytes
from gemkit.pictures import HEIF_SUFFIXES, SUFFIXES, looks_like_a_picture, reads_heif

SKIP_LIST = "gemkit-skip.txt"
"""In a data set's folder: pictures that are left out, one path below the folder a line."""
_TOOLS_FOLDERS = (
    "@eadir", "__macosx", "__pycache__", "#recycle", "@recycle", "@recently-snapshot", "#snapshot",
    "$recycle.bin", "@tmp", "system volume information", "lost+found",
)  # fmt: skip
_HIDDEN = "hidden or a tool's"
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", SKIP_LIST)


@dataclass(frozen=True)
class Skipped:
    """Files that are left out for one reason."""

    reason: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Folder:
    """A folder with the pictures in it; hidden ones and those of tools are left out."""

    path: Path
    pictures: tuple[Path, ...]
    folders: tuple["Folder", ...]

    @property
    def name(self) -> str:
        return self.path.name

    def all(self) -> Iterator[Path]:
        """Its pictures and those of the folders in it."""
        yield from self.pictures
        for folder in self.folders:
            yield from folder.all()

    def filled(self) -> tuple["Folder", ...]:
        """The folders in it that hold pictures."""
        return tuple(folder for folder in self.folders if any(folder.all()))


class Scan:
    """Reads a tree of folders and notes what is left out of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.remarks: list[str] = []
        self._skipped: dict[str, list[Path]] = defaultdict(list)
        self._others: dict[Path, list[Path]] = {}  # files that are no pictures, by folder
        self._listed = frozenset(_skip_list(root))
        self._heif = reads_heif()

    def folder(self, path: Path, above: tuple[str, ...] = ()) -> Folder:
        """Read a folder and all in it; linked folders too, but none that lies above."""
        here = os.path.realpath(path)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(error, path) from None
        pictures, folders, others = [], [], []
        for entry in entries:
            found = Path(entry.path)
            if entry.is_dir():
                if _is_hidden(entry.name):
                    self._skip_all(_HIDDEN, found)
                elif os.path.realpath(found) in (*above, here):
                    self.remarks.append(
                        f"{self.relative(found)}/ links back to a folder it lies in"
                    )
                else:
                    folders.append(self.folder(found, (*above, here)))
            elif self._is_left_out(found):
                continue
            elif self._is_picture(found):
                pictures.append(found)
            else:
                others.append(found)
        self._others[path] = others
        return Folder(path, tuple(pictures), tuple(folders))

    def _is_picture(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            return self._heif or suffix not in HEIF_SUFFIXES
        return not suffix and looks_like_a_picture(path)

    def _is_left_out(self, path: Path) -> bool:
        """Whether a file is hidden or listed, which is noted."""
        if path.name.startswith("."):
            if path.suffix.lower() in SUFFIXES:
                self.skip(_HIDDEN, [path])
            return True
        if self._listed and _line(self.root, path) in self._listed:
            self.skip(f"listed in {SKIP_LIST}", [path])
            return True
        return False

    def relative(self, path: Path) -> str:
        """A path below the root as people read it."""
        return path.relative_to(self.root).as_posix()

    def skip(self, reason: str, files: Iterable[Path]) -> None:
        self._skipped[reason] += files

    def skip_others(self, folder: Folder) -> None:
        """Note what lies in a class's folder and is no picture."""
        for path in self._others[folder.path]:
            suffix = path.suffix.lower()
            if path.name.lower() in _SYSTEM_FILES:
                continue
            if suffix in HEIF_SUFFIXES and not self._heif:
                self.skip(f"{suffix} (pillow-heif reads them, install it)", [path])
            elif suffix not in SUFFIXES:
                self.skip(suffix or "without a picture's content", [path])
        for inner in folder.folders:
            self.skip_others(inner)

    def others(self, folder: Folder) -> list[Path]:
        """What lies in a folder, or in folders in it, and is no picture."""
        found = list(self._others[folder.path])
        for inner in folder.folders:
            found += self.others(inner)
        return found

    def _skip_all(self, reason: str, folder: Path) -> None:
        """Note the pictures in a folder that is not read, if it may be looked into."""
        for place, _, names in os.walk(folder):
            self.skip(
                reason,
                [
                    Path(place, name)
                    for name in sorted(names)
                    if Path(name).suffix.lower() in SUFFIXES
                ],
            )

    def skipped(self) -> tuple[Skipped, ...]:
        """All that was left out, the most first."""
        found = [Skipped(reason, tuple(files)) for reason, files in self._skipped.items() if files]
        return tuple(sorted(found, key=lambda some: (-len(some.files), some.reason)))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _TOOLS_FOLDERS


def _skip_list(root: Path) -> Iterator[bytes]:
    path = root / SKIP_LIST
    if is_file(path):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(error, path) from None
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        yield from filter(None, (line.rstrip(b"\r") for line in lines))


def _line(root: Path, path: Path) -> bytes:
    """How a picture is listed; a line break in its name would be two lines."""
    name = os.fsencode(path.relative_to(root).as_posix())
    return name.replace(b"\n", b"?").replace(b"\r", b"?")


def skip_from_now_on(root: Path, files: Iterable[Path]) -> None:
    """Add pictures below a folder to its list of those that are left out."""
    names = [_line(root, path) for path in files]
    write_bytes(root / SKIP_LIST, b"\n".join(dict.fromkeys([*_skip_list(root), *names])) + b"\n")
