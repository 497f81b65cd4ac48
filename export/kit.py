"""The device kit: measure networks on a board that has nothing but Python, onnxruntime, numpy.

    write_kit("kit.zip", skeleton, [cells])         # gemkit latency kit --out kit.zip
    python measure.py                               # there; resumes when interrupted
    fit_measurements("measurements.json")           # gemkit latency fit measurements.json

The zip holds the networks, `measure.py` (which is `timing.py`), a manifest of what each network is,
and SHA256SUMS. `measurements.json` carries the manifest along, so that it can be read anywhere.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gemkit.architecture import Skeleton
from gemkit.budget import Budget, is_number
from gemkit.cell import CellArrays
from gemkit.errors import UserError
from gemkit.files import check_format, read_json, write_bytes

from . import timing
from .latency import SAMPLES, LatencyModel, Measured, is_device, levelled, plan
from .onnx_builder import build_onnx

_KIND, _FORMAT = "gemkit kit", 1
_README = """Measure these networks on this device (Python 3.8 or newer):

    pip install onnxruntime numpy
    python measure.py

That takes a few minutes on a PC and longer on a slow board; it says how long. It writes
measurements.json after every few networks and goes on where it stopped when it is started again.
Let nothing else run meanwhile. Then, where gemkit is:

    gemkit latency fit measurements.json --name NAME
"""


def write_kit(
    path: Path | str,
    skeleton: Skeleton,
    pools: Sequence[CellArrays],
    *,
    budget: Budget | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Write a kit as a zip file; see `gemkit.export.latency.plan` for what it measures.

    The same arguments give the same bytes.

    Returns:
        the manifest.

    Raises:
        UserError: too few networks fit the budget, or the file cannot be written.
    """
    architectures = plan(skeleton, pools, budget=budget, samples=samples, seed=seed)
    contents: dict[str, bytes] = {}
    entries = []
    for index, architecture in enumerate(architectures):
        name = f"models/{index:03d}.onnx"
        content = build_onnx(architecture, seed=index, compact=True).SerializeToString()
        contents[name] = content
        entries.append(
            {
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "cell": architecture.cells[0].to_json(),
                "width": architecture.width,
            }
        )
        if progress is not None:
            progress((index + 1) / len(architectures))
    manifest: dict[str, Any] = {
        "kind": _KIND,
        "format": _FORMAT,
        "skeleton": skeleton.to_json(),
        "files": entries,
    }
    manifest["id"] = timing.manifest_id(manifest)
    contents["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    contents["measure.py"] = Path(timing.__file__).read_bytes()
    contents["README.txt"] = _README.encode()
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
    contents["SHA256SUMS"] = ("\n".join(sums) + "\n").encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"gemkit-kit/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    write_bytes(Path(path), packed.getvalue())
    return manifest


def read_measurements(
    path: Path | str,
) -> tuple[Skeleton, list[Measured], dict[str, Any]]:
    """What a kit's measure.py wrote: skeleton, measurements and device.

    Raises:
        UserError: the file is damaged, incomplete, does not match its manifest, or mixes devices.
    """
    if zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is a kit: unpack it on the device, start measure.py there, and give the "
            "measurements.json that it writes"
        )
    value = read_json(Path(path))
    if not isinstance(value, dict) or value.get("kind") != "gemkit measurements":
        raise UserError(f"{path} holds no measurements of a kit: give the file measure.py wrote")
    check_format(value.get("format"), _FORMAT, str(path))
    manifest, rows, device = (value.get(name) for name in ("manifest", "measured", "device"))
    if not (isinstance(manifest, dict) and isinstance(rows, list) and is_device(device)):
        raise UserError(f"{path} is damaged: it needs manifest, measured and device")
    if manifest.get("id") != timing.manifest_id(manifest):
        raise UserError(f"{path} does not match its own manifest, which was changed")
    entries = _entries(manifest, path)
    found: dict[str, tuple[float, ...]] = {}
    for row in rows:
        name = row.get("file") if isinstance(row, dict) else None
        entry = entries.get(str(name))
        if entry is None or row.get("sha256") != entry["sha256"]:
            raise UserError(f"{path} does not match its own manifest: {name!r} is not in it")
        if row.get("device", device) != device:
            raise UserError(f"{path} mixes measurements of several devices: measure one at a time")
        if name in found:
            raise UserError(f"{path} holds {name!r} twice: was it joined from several files?")
        latency = row.get("latency_ms")
        p50 = latency.get("p50") if isinstance(latency, dict) else None
        found[str(name)] = tuple(
            _positive(time, f"{path}: the latency of {name}")
            # Before 0.2 no calibration network ran beside.
            for time in (row.get("calm_ms"), p50, row.get("calibration_ms", 1.0))
        )
    if len(found) < len(entries):
        raise UserError(
            f"{path} holds {len(found)} of the kit's {len(entries)} networks: start measure.py "
            "again, it goes on where it stopped"
        )
    skeleton = Skeleton.from_json(manifest.get("skeleton"), f"{path}: skeleton")
    calm, middle, calibration = np.array(list(found.values())).T
    speed = calibration.min() / calibration  # networks were measured a few at a time
    times = levelled(calm * speed, middle * speed)
    measured = [
        Measured.from_json(
            {"cell": entries[name]["cell"], "width": entries[name]["width"], "latency_ms": time},
            f"{path}: {name}",
        )
        for name, time in zip(found, times.tolist(), strict=True)
    ]
    return skeleton, measured, device


def _positive(value: Any, what: str) -> float:
    if not (is_number(value) and value > 0):
        raise UserError(f"{what} is no positive number")
    return float(value)


def _entries(manifest: Mapping[str, Any], path: Path | str) -> dict[str, Mapping[str, Any]]:
    files = manifest.get("files")
    if not isinstance(files, list) or not all(
        isinstance(entry, dict) and {"file", "sha256", "cell", "width"} <= entry.keys()
        for entry in files
    ):
        raise UserError(f"{path} is damaged: its manifest does not list what was measured")
    return {str(entry["file"]): entry for entry in files}


def fit_measurements(*paths: Path | str, prior: LatencyModel | None = None) -> LatencyModel:
    """Fit a latency predictor for the device that one or more kits were measured on.

    Args:
        prior: of another device; see `LatencyModel.fit`.

    Raises:
        UserError: see `read_measurements`; or the files are of several devices or skeletons.
    """
    parts = [read_measurements(path) for path in paths]
    if not parts:
        raise UserError("name at least one file of measurements")
    for skeleton, _, device in parts[1:]:
        if device != parts[0][2]:
            raise UserError(
                "the files mix several devices (or versions): fit a predictor for each of them"
            )
        if skeleton != parts[0][0]:
            raise UserError("the files are of different skeletons: fit a predictor for each")
    measured = [one for _, rows, _ in parts for one in rows]
    return LatencyModel.fit(parts[0][0], measured, parts[0][2], prior)
