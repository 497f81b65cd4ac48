"""Files as NAS-Bench-101 writes them: TFRecord frames around JSON with a protobuf message."""

import base64
import json
import struct

import numpy as np


def crc32c(data: bytes) -> int:
    """Bit by bit, straight from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(records: list[bytes]) -> bytes:
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts.append(length + masked(length) + record + masked(record))
    return b"".join(parts)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def message(evaluations: list[list[float]], parameters: int, path: bytes = b"") -> bytes:
    """A ModelMetrics message; with a checkpoint path where one is given."""
    parts = []
    for values in evaluations:
        inner = b"".join(
            bytes([field << 3 | 1]) + struct.pack("<d", value)
            for field, value in enumerate(values, start=1)
        )
        if path:
            inner += b"\x32" + varint(len(path)) + path
        parts.append(b"\x0a" + varint(len(inner)) + inner)
    return b"".join(parts) + b"\x10" + varint(parameters) + b"\x19" + struct.pack("<d", 1.5)


def small_nasbench101(seed: int, cells: int = 6) -> list[bytes]:
    """Records of chains of different length with random numbers."""
    rng = np.random.default_rng(seed)
    names = ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"]
    found = []
    for k in range(cells):
        inner = 1 + k % 5
        edges = np.eye(inner + 2, k=1, dtype=int)
        ops = ["input", *(names[1 + (k + i) % 3] for i in range(inner)), "output"]
        text = "".join(map(str, edges.ravel()))
        values = [[0.0] * 5, rng.random(5).tolist(), rng.random(5).tolist()]
        packed = base64.b64encode(message(values, 1000 + k)).decode()
        found.append(json.dumps([f"{k:032x}", 108, text, ",".join(ops), packed]).encode())
    return found
