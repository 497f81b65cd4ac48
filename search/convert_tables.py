"""Turn public tabular benchmarks into the npz layouts that `gemkit ablate` reads.

    python -m gemkit.search.convert_tables nasbench201 NAS-Bench-201-v1_1-096897.pth OUT.npz
    python -m gemkit.search.convert_tables nasbench101 nasbench_only108.tfrecord OUT.npz
    python -m gemkit.search.convert_tables hw-nas-bench HW-NAS-Bench-v1_0.pickle OUT.npz
    python -m gemkit.search.convert_tables csv CELLS.csv OUT.npz

`docs/ablation.md` says where these files come from. Those that are pickles are opened with
`torch.load(weights_only=True)`, which runs no code. A csv file has a column `cell` with cells as
NAS-Bench-201 writes them (|nor_conv_3x3~0|+|...|) and one column a metric.
"""

from __future__ import annotations

import argparse
import csv
import io
import pickle
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from gemkit.errors import UserError
from gemkit.files import is_file, replacing

from .nasbench101 import read_nasbench101
from .tables import EDGES, STRUCTURE

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""NAS-Bench-201's operations, in its own order."""


def parse_cell(text: str) -> list[int]:
    """Codes into OPERATIONS of a cell string, one for each of EDGES.

    Raises:
        UserError: the string is none of NAS-Bench-201.
    """
    found = [re.findall(r"\|?([^|~+]+)~(\d+)\|", node) for node in text.split("+")]
    codes = []
    for target, node in enumerate(found, start=1):
        for source, (operation, of) in enumerate(node):
            if int(of) != source or operation not in OPERATIONS:
                raise UserError(f"{text!r} is no cell of NAS-Bench-201")
            codes.append(OPERATIONS.index(operation))
        if len(node) != target:
            raise UserError(f"{text!r} is no cell of NAS-Bench-201")
    if len(codes) != len(EDGES):
        raise UserError(f"{text!r} is no cell of NAS-Bench-201")
    return codes


_RESERVED = (*STRUCTURE, "file", "allow_pickle")
"""Names that no metric can have: they mean something else, the last two to NumPy."""


def on_edges(cells: Sequence[str], metrics: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """The layout with operations on edges from cell strings and metrics."""
    for name in metrics:
        if name in _RESERVED:
            raise UserError(f"a metric cannot be called {name!r}: give it another name")
    arrays: dict[str, NDArray[Any]] = {
        "ops": np.array([parse_cell(cell) for cell in cells], dtype=np.uint8),
        "op_names": np.array(OPERATIONS),
        "edges": np.array(EDGES, dtype=np.uint8),
    }
    return arrays | {name: np.asarray(v, dtype=np.float64) for name, v in metrics.items()}


def _reason(error: Exception) -> str:
    """The line of torch's long message that says what was refused."""
    text = str(error)
    found = re.search(r"WeightsUnpickler error: *(.+)", text, re.DOTALL)
    return (found.group(1) if found else text).strip().split("\n")[0].split(". ")[0]


def _begins_with(path: Path, *starts: bytes) -> bool:
    """Whether a file is of a kind; web pages that were saved in its place are not."""
    with path.open("rb") as file:
        return file.read(2).startswith(starts)


def nasbench201(path: Path) -> dict[str, NDArray[Any]]:
    """From the original .pth: per data set and epochs the mean accuracy over seeds, in per cent.

    Metrics are named DATASET_SPLIT_EPOCHS (`cifar10-valid_x-valid_199`), with FLOPs and parameters
    (both in millions) of each data set beside them.
    """
    if not _begins_with(path, b"PK", b"\x80"):
        raise UserError(f"{path} is no file of torch's: it is damaged or of another kind")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read without running its code ({_reason(error)})"
        ) from None
    except Exception:  # a text is read as a pickle, whose parser raises whatever it comes upon
        raise UserError(f"{path} is no file of torch's: it is damaged or of another kind") from None
    if not isinstance(stored, dict) or not {"meta_archs", "arch2infos"} <= set(stored):
        raise UserError(f"{path} is no NAS-Bench-201 file: it lacks 'meta_archs' or 'arch2infos'")
    cells = list(stored["meta_archs"])
    metrics: dict[str, NDArray[np.float64]] = {}

    def put(name: str, row: int, value: float) -> None:
        metrics.setdefault(name, np.full(len(cells), np.nan))[row] = value

    for row in range(len(cells)):
        info = stored["arch2infos"].get(row, {})
        results = info.get("full", info).get("all_results", {})
        gathered: dict[str, list[float]] = {}
        for (dataset, _seed), one in results.items():
            put(f"{dataset}_flops_M", row, float(one["flop"]))
            put(f"{dataset}_params_M", row, float(one["params"]))
            for key, value in one.get("eval_acc1es", {}).items():
                split, _, epoch = str(key).rpartition("@")
                gathered.setdefault(f"{dataset}_{split}_{epoch}", []).append(float(value))
        for name, values in gathered.items():
            put(name, row, float(np.mean(values)))
    return on_edges(cells, metrics)


def _framed(data: bytes) -> bytes:
    """A bare pickle as the older of torch's file formats, so that `torch.load` reads it.

    That format is a row of pickles: magic number, version, system, the object, its storages.
    """
    before = (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in before) + data + pickle.dumps([], 2)


def hw_nas_bench(path: Path) -> dict[str, NDArray[Any]]:
    """From the pickle of HW-NAS-Bench: latency (ms) and energy (mJ) of devices, on CIFAR-10."""
    if not _begins_with(path, b"\x80"):
        raise UserError(f"{path} is no pickle: it is damaged or of another kind")
    numbers = [np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    scalar = np.float64(0).__reduce__()[0]
    names: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), *numbers]
    try:
        with torch.serialization.safe_globals(names), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            stored = torch.load(io.BytesIO(_framed(path.read_bytes())), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read without running its code ({_reason(error)}); write its cells "
            "and latencies as csv and convert that"
        ) from None
    except Exception:
        raise UserError(f"{path} is no pickle: it is damaged or of another kind") from None
    try:
        table = stored["nasbench201"]["cifar10"]
        config = table["config"]
        cells = [one["arch_str"] for one in config]
        metrics = {
            name: [float(v) for v in values]
            for name, values in table.items()
            if name != "config" and len(values) == len(cells)
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no HW-NAS-Bench file: it lacks nasbench201 / cifar10") from None
    return on_edges(cells, metrics)


def from_csv(path: Path) -> dict[str, NDArray[Any]]:
    """From a csv file with a column `cell` and a column for each metric."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        raise UserError(
            f"{path} is no csv file in UTF-8, or has a field of more than 128 KiB"
        ) from None
    if not rows or "cell" not in rows[0]:
        raise UserError(f"{path} has no column 'cell' or no row")
    metrics: dict[str, list[float]] = {name: [] for name in rows[0] if name != "cell"}
    for number, row in enumerate(rows, start=2):
        for name, values in metrics.items():
            try:
                values.append(float(row[name] or "nan"))
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {number}: {row[name]!r} is no number") from None
    return on_edges([row["cell"] or "" for row in rows], metrics)


FORMS = {
    "nasbench201": nasbench201,
    "nasbench101": read_nasbench101,
    "hw-nas-bench": hw_nas_bench,
    "csv": from_csv,
}


def main(arguments: list[str] | None = None) -> int:
    """Convert one file; 0, or 2 with a sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m gemkit.search.convert_tables", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("form", choices=sorted(FORMS), help="what the source is")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="npz file to write")
    given = parser.parse_args(arguments)
    try:
        if not is_file(given.source):
            raise UserError(f"there is no file {given.source}")
        arrays = FORMS[given.form](given.source)
        with replacing(given.target) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    names = [name for name in arrays if name not in _RESERVED]
    print(f"{given.target}: {len(arrays['ops'])} cells; {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
