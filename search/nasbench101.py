"""NAS-Bench-101's own files: TFRecord of JSON with protobuf inside, read without TensorFlow.

Checksums are verified, and whatever is wrong is said with its record and byte.
"""

from __future__ import annotations

import binascii
import json
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from gemkit.errors import UserError

from .interfaces import FloatArray, IntArray

ABSENT = 255
"""Code of a place without node in the `ops` of a table with operations on nodes."""
MOST_OPERATIONS = 60
"""So many labels, with input and output, are digits of a path's code (`features.paths`)."""
LONGEST_RECORD = 1 << 24


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_CRC = _crc_table()


def masked_crc32c(data: NDArray[np.uint8], starts: IntArray, length: int) -> NDArray[np.uint32]:
    """TFRecord's masked CRC-32C of the `length` bytes of `data` from each start on."""
    crc = np.full(len(starts), 0xFFFFFFFF, dtype=np.uint32)
    for offset in range(length):
        crc = _CRC[(crc ^ data[starts + offset]) & np.uint32(255)] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def _words(data: NDArray[np.uint8], starts: IntArray) -> NDArray[np.uint32]:
    """Little-endian 32-bit words at these places."""
    parts = [data[starts + k].astype(np.uint32) << np.uint32(8 * k) for k in range(4)]
    return np.asarray(parts[0] | parts[1] | parts[2] | parts[3])


def record_places(path: Path) -> tuple[NDArray[np.uint8], IntArray, IntArray]:
    """A TFRecord file's bytes, and start and length of every record, all checksums verified.

    Raises:
        UserError: the file is empty, truncated or corrupted; with the byte.
    """
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    raw = memoryview(data)  # type: ignore[arg-type]
    heads, lengths, place, cut = array("q"), array("q"), 0, False
    unpack = struct.Struct("<Q").unpack_from
    while place < len(data):
        if place + 12 > len(data):
            cut = True
            break
        (length,) = unpack(raw, place)
        heads.append(place)
        lengths.append(min(length, 1 << 62))
        if place + 16 + length > len(data):
            cut = True
            break
        place += 16 + length
    head, size = np.frombuffer(heads, dtype=np.int64), np.frombuffer(lengths, dtype=np.int64)
    wrong = _first_wrong(data, head, 8)
    if wrong is not None:
        if wrong == 0:
            raise UserError(
                f"{path} is no TFRecord file: the checksum of the first length (byte 0) is wrong"
            )
        raise UserError(
            f"{path} is corrupted: the length of record {wrong} at byte {int(head[wrong])} "
            "fails its checksum"
        )
    if cut:
        whole = len(head) - 1 if len(head) and head[-1] + 16 + size[-1] > len(data) else len(head)
        where = int(head[whole]) if whole < len(head) else place
        raise UserError(
            f"{path} is truncated: record {whole} at byte {where} ends after the file's "
            f"{len(data)} bytes"
        )
    starts = head + 12
    if size.max() > LONGEST_RECORD:
        raise UserError(f"{path} has a record of {int(size.max())} bytes: that is no NAS-Bench-101")
    order = np.argsort(size, kind="stable")
    bounds = np.flatnonzero(np.diff(size[order])) + 1
    bad: list[int] = []
    for group in np.split(order, bounds):
        for part in np.array_split(group, -(-len(group) // 16384)):
            length = int(size[part[0]])
            checked = masked_crc32c(data, starts[part], length)
            failed = checked != _words(data, starts[part] + length)
            bad += part[failed].tolist()
    if bad:
        wrong = min(bad)
        raise UserError(
            f"{path} is corrupted: record {wrong} at byte {int(head[wrong])} fails its checksum"
        )
    return data, starts, size


def _first_wrong(data: NDArray[np.uint8], heads: IntArray, length: int) -> int | None:
    """The first of the heads whose checksum, right after `length` bytes, does not hold."""
    for begin in range(0, len(heads), 65536):
        part = heads[begin : begin + 65536]
        failed = masked_crc32c(data, part, length) != _words(data, part + length)
        if failed.any():
            return begin + int(np.argmax(failed))
    return None


_TOGETHER = 16384
"""Records decoded at a time."""
_MEASURES = ("training_time", "train_accuracy", "validation_accuracy", "test_accuracy")
_NAMES101 = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "input", "output")


@cache
def _metrics() -> Any:
    """The class of a record's protobuf message: what is read of `model_metrics.proto`."""
    file = FileDescriptorProto(name="model_metrics.proto", syntax="proto2")
    evaluation = file.message_type.add(name="Evaluation")
    for number, name in enumerate(_MEASURES, start=2):
        evaluation.field.add(name=name, number=number, type=Field.TYPE_DOUBLE)
    metrics = file.message_type.add(name="Metrics")
    repeated = {"label": Field.LABEL_REPEATED, "type_name": "Evaluation"}
    metrics.field.add(name="evaluations", number=1, type=Field.TYPE_MESSAGE, **repeated)
    metrics.field.add(name="parameters", number=2, type=Field.TYPE_INT64)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("Metrics"))


def _no_record(path: Path, number: int, starts: IntArray) -> UserError:
    return UserError(
        f"{path}: record {number} at byte {int(starts[number]) - 12} is no NAS-Bench-101 record "
        "(module hash, epochs, adjacency, operations, metrics)"
    )


def _records(
    path: Path, data: NDArray[np.uint8], starts: IntArray, sizes: IntArray, begin: int
) -> tuple[list[Any], list[Any]]:
    """Records from number `begin` on, and their metrics."""
    some = slice(begin, begin + _TOGETHER)
    ends = (starts[some] + sizes[some]).tolist()
    texts = [data[a:b].tobytes() for a, b in zip(starts[some].tolist(), ends, strict=True)]
    try:
        records = json.loads(b"[" + b",".join(texts) + b"]")
        if len(records) != len(texts):
            raise ValueError("a record is not one value")
    except ValueError:
        records = [None] * len(texts)
        for k, text in enumerate(texts):
            with suppress(ValueError):
                records[k] = json.loads(text)
    messages = []
    for k, record in enumerate(records):
        try:
            digest, epochs, edges, operations, metrics = record
            if not all(isinstance(text, str) for text in (digest, edges, operations, metrics)):
                raise ValueError("not text")
            if not isinstance(epochs, int) or not 0 < epochs < 1 << 31:
                raise ValueError("no number of epochs")
            message = _metrics().FromString(binascii.a2b_base64(metrics, strict_mode=True))
            if len(message.evaluations) != 3:
                raise ValueError("not three evaluations")
            messages.append(message)
        except (ValueError, TypeError, DecodeError):
            raise _no_record(path, begin + k, starts) from None
    return records, messages


def read_nasbench101(
    path: Path, progress: Callable[[float], None] | None = None
) -> dict[str, NDArray[Any]]:
    """Decode `nasbench_only108.tfrecord` or `nasbench_full.tfrecord` into the npz layout.

    Arrays: `adjacency` (n, m, m) uint8, `ops` (n, m) uint8, `op_names`, `module_hash`, `params`
    and, for the longest training, `final_validation_accuracy_run0` and so on (`halfway_`, `train_`,
    `test_`, `training_time`); shorter trainings have their epochs in the name (`..._4ep_run0`).
    A run that a cell lacks is nan. Raises UserError as `load` does.
    """
    data, starts, sizes = record_places(path)
    names: dict[str, int] = {name: code for code, name in enumerate(_NAMES101)}
    index: dict[str, int] = {}
    cells: list[tuple[str, tuple[int, ...]]] = []
    parameters, owner, trained = array("q"), array("q"), array("q")
    numbers: list[FloatArray] = []
    for begin in range(0, len(starts), _TOGETHER):
        records, messages = _records(path, data, starts, sizes, begin)
        for k, (digest, epochs, edges, operations, _) in enumerate(records):
            place = index.get(digest)
            if place is None:
                place = index[digest] = len(cells)
                codes = tuple(names.setdefault(o, len(names)) for o in operations.split(","))
                if len(edges) != len(codes) ** 2 or set(edges) - {"0", "1"}:
                    raise _no_record(path, begin + k, starts)
                cells.append((edges, codes))
                parameters.append(messages[k].parameters)
            owner.append(place)
            trained.append(epochs)
        # Half-way and final (n, 2, 4).
        numbers.append(
            np.array(
                [
                    [[getattr(one, name) for name in _MEASURES] for one in message.evaluations[1:]]
                    for message in messages
                ]
            )
        )
        if progress:
            progress(min(1.0, (begin + _TOGETHER) / len(starts)))
    if len(names) >= MOST_OPERATIONS:
        raise UserError(f"{path} has more than {MOST_OPERATIONS} kinds of operations")
    places = max(len(codes) for _, codes in cells)
    adjacency = np.zeros((len(cells), places, places), dtype=np.uint8)
    ops = np.full((len(cells), places), ABSENT, dtype=np.uint8)
    by_size: dict[int, list[int]] = {}
    for i, (_, codes) in enumerate(cells):
        by_size.setdefault(len(codes), []).append(i)
    for m, rows in by_size.items():
        text = "".join(cells[i][0] for i in rows).encode()
        bits = np.frombuffer(text, dtype=np.uint8).reshape(len(rows), m, m) - ord("0")
        adjacency[rows, :m, :m] = bits
        ops[rows, :m] = np.array([cells[i][1] for i in rows], dtype=np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "adjacency": adjacency,
        "ops": ops,
        "op_names": np.array(list(names)),
        "module_hash": np.array(list(index)),
        "params": np.frombuffer(parameters, dtype=np.int64),
    }
    values = np.concatenate(numbers)
    rows_, lengths = np.frombuffer(owner, dtype=np.int64), np.frombuffer(trained, dtype=np.int64)
    for epochs in np.unique(lengths)[::-1].tolist():
        here = np.flatnonzero(lengths == epochs)
        suffix = "" if epochs == lengths.max() else f"_{epochs}ep"
        order = here[np.argsort(rows_[here], kind="stable")]
        of = rows_[order]
        first = np.searchsorted(of, of)
        run = np.arange(len(of)) - first
        for r in range(int(run.max()) + 1):
            some = run == r
            for t, moment in enumerate(("halfway", "final")):
                for q, measure in enumerate(_MEASURES):
                    column = np.full(len(cells), np.nan)
                    column[of[some]] = values[order[some], t, q]
                    arrays[f"{moment}_{measure}{suffix}_run{r}"] = column
    return arrays
