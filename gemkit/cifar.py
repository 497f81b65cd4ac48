"""CIFAR-10 and CIFAR-100 in their binary version: found, or downloaded and checked, and read."""

import hashlib
import http.client
import tarfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from gemkit.errors import UserError
from gemkit.files import data_folder, replacing, write_bytes

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, 32, 32, 3) and labels (n,)."""


@dataclass(frozen=True)
class Archive:
    """A binary version of CIFAR: records of label bytes and 3x32x32 pixel bytes."""

    title: str
    archive: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    classes: int

    @property
    def url(self) -> str:
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


ARCHIVES = {
    "cifar10": Archive(
        "CIFAR-10",
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Archive(
        "CIFAR-100",
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        "fine_label_names.txt",
        label_bytes=2,  # the coarse label comes first, the fine one is used
        classes=100,
    ),
}


def read(source: str) -> tuple[Part, Part, list[str]]:
    """Training part, test part and class names of `cifar10` or `cifar100`.

    Looked for in the data folder, else unpacked from the archive there, which is downloaded first
    if need be.

    Raises:
        UserError: it cannot be downloaded, or a file is damaged.
    """
    archive = ARCHIVES[source]
    folder = data_folder() / archive.folder
    needed = (*archive.train, *archive.test, archive.names)
    if not all((folder / name).is_file() for name in needed):
        _unpack(source, archive, folder, needed)
    names = (folder / archive.names).read_text(encoding="utf-8", errors="replace").split()
    if len(names) != archive.classes:
        raise UserError(
            f"{folder / archive.names} holds {len(names)} class names, "
            f"{archive.title} has {archive.classes}: remove the folder to get it anew"
        )
    train = _records([folder / name for name in archive.train], archive)
    test = _records([folder / name for name in archive.test], archive)
    return train, test, names


def _records(paths: list[Path], archive: Archive) -> Part:
    size = archive.label_bytes + 3 * 32 * 32
    images, labels = [], []
    for path in paths:
        content = np.fromfile(path, dtype=np.uint8)
        if len(content) == 0 or len(content) % size:
            raise UserError(
                f"{path} is no whole file of {archive.title} ({len(content)} bytes are no "
                f"multiple of {size}): remove it to get it anew"
            )
        content = content.reshape(-1, size)
        label = content[:, archive.label_bytes - 1].astype(np.int64)
        if label.max() >= archive.classes:
            row = int(np.argmax(label >= archive.classes))
            raise UserError(
                f"{path}, record {row}: label {label[row]} is out of range, "
                f"{archive.title} has classes 0 to {archive.classes - 1}"
            )
        labels.append(label)
        pixels = content[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
        images.append(pixels.transpose(0, 2, 3, 1))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _unpack(source: str, archive: Archive, folder: Path, needed: Sequence[str]) -> None:
    """Take the needed files out of the archive, which is downloaded first if it is not there."""
    path = folder.parent / archive.archive
    if not path.is_file():
        _download(source, archive, path)
    else:
        _verify(path, archive)
    with tarfile.open(path) as packed:
        for member in packed:
            name = Path(member.name).name
            content = packed.extractfile(member)
            if name in needed and content is not None:
                write_bytes(folder / name, content.read())


def _verify(path: Path, archive: Archive) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise UserError(
            f"{path} is damaged or no {archive.title} (its SHA-256 is not {archive.sha256}): "
            f"remove it and get it from {archive.url}"
        )


def _download(source: str, archive: Archive, path: Path) -> None:
    try:
        with (
            replacing(path) as temporary,
            urllib.request.urlopen(archive.url, timeout=30) as answer,
            open(temporary, "wb") as file,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            task = progress.add_task(
                f"downloading {archive.title}",
                total=int(answer.headers.get("Content-Length") or 0) or None,
            )
            digest = hashlib.sha256()
            while block := answer.read(2**18):
                file.write(block)
                digest.update(block)
                progress.advance(task, len(block))
            file.flush()
            if digest.hexdigest() != archive.sha256:
                raise OSError("what came has the wrong checksum")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{source} is not on this machine and cannot be downloaded ({reason}): "
            f"get {archive.url} elsewhere and put it at {path}"
        ) from None
