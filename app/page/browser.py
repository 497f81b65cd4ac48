"""What the visitor's own browser needs to run networks: onnxruntime-web, drafts, right answers.

onnxruntime-web comes from its npm package, which Python fetches once from the registry that npm
is configured to use (`gemkit app RUN --fetch-runtime`); version and checksum are fixed here. The
page serves it from then on, so that a visitor's browser talks to nobody else.
"""

import base64
import functools
import hashlib
import http.client
import io
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemkit.architecture import Architecture
from gemkit.errors import UserError
from gemkit.export import exporter, timing
from gemkit.export.onnx_builder import build_onnx
from gemkit.files import data_folder, write_bytes
from gemkit.records import Network, Trial

from .. import formatting

if TYPE_CHECKING:
    from .content import PageRun

VERSION = "1.30.0"
_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_REGISTRY = "https://registry.npmjs.org/"
_MAX_BYTES = 200_000_000
MOST_CELLS = 60
"""So many cells of a run can be measured in a browser to learn a device's latency from."""
_LEAST_CELLS = 10


def cache_folder() -> Path:
    """Where the fetched files lie: beside the data that gemkit keeps."""
    return data_folder() / f"onnxruntime-web-{VERSION}"


def registry() -> str:
    """The npm registry that this user's npm is configured to use."""
    named = {name.lower(): value for name, value in os.environ.items()}
    if named.get("npm_config_registry"):
        return named["npm_config_registry"].rstrip("/") + "/"
    places = [
        Path(".npmrc"),
        Path(named.get("npm_config_userconfig") or Path.home() / ".npmrc"),
        Path(named.get("npm_config_globalconfig") or "/etc/npmrc"),
        Path("/usr/local/etc/npmrc"),
        Path("/usr/etc/npmrc"),
    ]
    for place in places:
        try:
            lines = place.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            name, _, value = line.partition("=")
            if name.strip() == "registry" and value.strip():
                return value.strip().strip("\"'").rstrip("/") + "/"
    return _REGISTRY


def fetch_runtime() -> Path:
    """Fetch onnxruntime-web into the cache, if it is not there; returns its folder.

    Raises:
        UserError: the registry cannot be reached, or gave something else.
    """
    folder = cache_folder()
    if has_runtime():
        return folder
    address = f"{registry()}onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    if not address.startswith(("https://", "http://")):
        raise UserError(f"npm's registry {address!r} is no web address: correct npm's settings")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            content = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"onnxruntime-web could not be fetched ({reason}): the page works without it, only "
            "measuring in the browser does not"
        ) from None
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != _SHA512:
        raise UserError(
            f"the registry's onnxruntime-web {VERSION} is not the one gemkit knows (its checksum "
            "differs): nothing was kept"
        )
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in _FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            write_bytes(folder / name, member.read())
    return folder


def has_runtime() -> bool:
    """Whether onnxruntime-web was fetched."""
    return all((cache_folder() / name).is_file() for name in _FILES)


def runtime_file(name: str) -> Path | None:
    """One of its files, None for any other name."""
    path = cache_folder() / name
    return path if name in _FILES and path.is_file() else None


# ---- networks to be measured


def _median(network: Network | None) -> float | None:
    return None if network is None or network.latency_ms is None else network.latency_ms.p50


def settings(shown: "PageRun") -> dict[str, Any]:
    """What the page's script needs to know to run the networks of a run."""
    content = shown.content
    return {
        "runtime": has_runtime(),
        "version": VERSION,
        "most": MOST_CELLS,
        "seconds": 0.15,
        "shape": [1, *content.skeletons[0].input_shape] if content.skeletons else [],
        "networks": [
            {
                "id": id,
                "label": label,
                "baseline": content.kind(id) == "baselines",
                "p50": _median(content.network(id)),
            }
            for label, id in shown.runnable()
        ],
    }


def _chosen(shown: "PageRun", count: int) -> list[Trial]:
    """The first `count` candidates of a run that were trained, in its first skeleton."""
    # What predicts latency is made for one skeleton.
    trials = [one for one in shown.trials() if one.state == "done" and not one.skeleton]
    return trials[:count]


def manifest(shown: "PageRun", count: int) -> dict[str, Any]:
    """A device kit's manifest for cells of this run; `gemkit latency fit` reads it back.

    Raises:
        UserError: the run has too few cells, or does not say what its networks are made of.
    """
    if not _LEAST_CELLS <= count <= MOST_CELLS:
        raise UserError(f"from {_LEAST_CELLS} to {MOST_CELLS} cells can be measured, not {count}")
    skeletons, trials = shown.content.skeletons, _chosen(shown, count)
    if not skeletons or len(trials) < _LEAST_CELLS:
        raise UserError(
            f"to learn a device's latency takes at least {_LEAST_CELLS} cells: this run has "
            f"{formatting.number(len(trials), 'trained candidate')}"
        )
    skeleton, entries = skeletons[0], []
    for trial in trials:
        content = _draft(Architecture((trial.cell,), skeleton, trial.width), int(trial.key[:8], 16))
        entries.append(
            {
                "file": f"{trial.id}.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "cell": trial.cell.to_json(),
                "width": trial.width,
            }
        )
    value: dict[str, Any] = {
        "kind": "gemkit kit",
        "format": 1,
        "skeleton": skeleton.to_json(),
        "files": entries,
    }
    value["id"] = timing.manifest_id(value)
    return value


def draft_named(shown: "PageRun", name: str) -> bytes | None:
    """The file of a manifest's entry."""
    trial = shown.trial(name.removesuffix(".onnx")) if name.endswith(".onnx") else None
    skeletons = shown.content.skeletons
    if trial is None or not skeletons or trial.skeleton:
        return None
    network = Architecture((trial.cell,), skeletons[0], trial.width)
    return _draft(network, int(trial.key[:8], 16))


@functools.lru_cache(maxsize=MOST_CELLS)
def _draft(architecture: Architecture, seed: int) -> bytes:
    return bytes(build_onnx(architecture, seed=seed).SerializeToString())


def reference(shown: "PageRun", id: str) -> dict[str, Any] | None:
    """An input (base64 of float32) and what onnxruntime makes of it, to compare a browser with.

    Raises:
        UserError: the file is damaged.
    """
    path = shown.onnx(id)
    return None if path is None else _reference(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _reference(path: Path, changed: int) -> dict[str, Any]:
    info = exporter.read_info(path)
    image = np.random.default_rng(0).normal(size=(1, *info.input_shape)).astype("<f4")
    output = exporter.run(timing.open_session(path), image)
    return {
        "shape": list(image.shape),
        "input": base64.b64encode(image.tobytes()).decode(),
        "output": np.asarray(output, dtype=float).ravel().tolist(),
    }
