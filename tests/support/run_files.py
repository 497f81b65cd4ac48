"""What must hold of a run's files at any moment."""

import json
from pathlib import Path

from safetensors.numpy import load_file

from gemkit.export import exporter, timing


def files_are_whole(folder: Path) -> None:
    """Every file that a run delivers can be read; what is half-written has another name."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".onnx":
            exporter.read_info(path)
            timing.open_session(path)
