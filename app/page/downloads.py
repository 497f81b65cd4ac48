"""The files of a run's networks that a visitor may take: what they are, their size and SHA-256.

A file is given away because it is in this list, never because somebody asked for its path. Links
and names that leave the network's folder are not listed.
"""

import functools
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemkit.budget import PRECISIONS
from gemkit.cell import Cell, file_content
from gemkit.export.ort_format import OPERATORS_ENDING

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NETWORKS = {
    "model": "fp32: all that a device needs",
    "model.optimized": "fp32, graph rewritten for speed or memory",
    "model.int8": "int8",
    "model.optimized.int8": "int8, graph rewritten",
    "model.optimized.fp16": "fp16, graph rewritten",
    "model.fp16": "fp16",
}
_DESCRIPTIONS = (
    {f"{name}.onnx": f"ONNX, {what}" for name, what in _NETWORKS.items()}
    | {
        f"{name}{ending}": text
        for name in _NETWORKS
        for ending, text in (
            (".ort", f"onnxruntime's own format, of {name}.onnx"),
            (OPERATORS_ENDING, f"the operators that a minimal onnxruntime needs for {name}.ort"),
        )
    }
    | {
        "cell.json": "the cell: operations and edges",
        "card.md": "model card: data, accuracy, latency, how it was trained",
        "bench.json": "all measurements",
        "weights.safetensors": "PyTorch weights",
        "mistakes.png": "the test images of its worst mistakes",
    }
)


@dataclass(frozen=True)
class Download:
    """A file on offer.

    Attributes:
        name: without folders.
        description: what it is, for people.
        size: in bytes.
        sha256: in hexadecimal.
    """

    name: str
    description: str
    path: Path
    size: int
    sha256: str

    @property
    def precision(self) -> str:
        """Of an ONNX file, by its name."""
        kind = self.name.split(".")[-2]
        return kind if kind in PRECISIONS else "fp32"

    def called(self, stem: str) -> str:
        """The name under which it is saved, which begins with run and network."""
        return f"{stem}.{self.name.removeprefix('model.')}"


def folder_of(run: Path, kind: str, id: str) -> Path | None:
    """The folder of a network, None where the id would lead elsewhere.

    Args:
        kind: "models" or "baselines".
    """
    if not _NAME.fullmatch(id) or ".." in id:
        return None
    return run / kind / id


def downloads(run: Path, kind: str, id: str) -> tuple[Download, ...]:
    """The files of a network, its ONNX file first."""
    folder = folder_of(run, kind, id)
    if folder is None:
        return ()
    found = []
    for name, description in _DESCRIPTIONS.items():
        path = folder / name
        if _inside(path, run):
            stat = path.stat()
            sum_ = _sha256(path, stat.st_mtime_ns, stat.st_size)
            found.append(Download(name, description, path, stat.st_size, sum_))
    return tuple(found)


def _inside(path: Path, run: Path) -> bool:
    """Whether a file is a plain one that lies in the run, reached by no link."""
    return path.is_file() and path.resolve() == run.resolve() / path.relative_to(run)


@functools.lru_cache(maxsize=512)
def _sha256(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packed(folder: str, files: Sequence[Download]) -> bytes:
    """All files of a network as a zip of a folder with their SHA256SUMS; always the same bytes."""
    contents = {file.name: file.path.read_bytes() for file in files}
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()
    )
    contents["SHA256SUMS"] = sums.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{folder}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def cell_file(cell: Cell) -> bytes:
    """A cell as a file, for candidates that have no folder of their own."""
    return (json.dumps(file_content(cell)) + "\n").encode()
