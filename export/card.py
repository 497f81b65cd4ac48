"""The model card, `card.md`: what a delivered network is, costs, reaches, and how to run it."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemkit.budget import Budget, format_bytes, format_count, format_latency
from gemkit.files import write_text
from gemkit.records import Measurement

from .exporter import ModelInfo, read_info
from .onnx_file import load_onnx
from .snippets import cpp_lines, input_text, javascript_lines, python_lines
from .timing import short_name

_Z = 1.959964
"""Of a 95 % interval."""


def write_card(
    path: Path | str,
    model: Path | str,
    *,
    data: str,
    accuracy: float | None = None,
    test_images: int | None = None,
    training: str = "",
    budget: Budget | None = None,
    parity_max_abs: float | None = None,
    measurements: Sequence[Measurement] = (),
    files: Sequence[Path | str] = (),
    elsewhere: str | None = None,
) -> None:
    """Write the card of an exported network.

    Args:
        path: where the card goes, usually beside the model.
        model: the fp32 ONNX file, which says most about itself.
        data: name of the data, as accuracies are quoted with it.
        accuracy, test_images: share classified right, and of how many images.
        training: one line on how it was trained.
        measurements: for the latency table.
        files: those made of the model, listed with their own figures and SHA-256.
        elsewhere: what is predicted for the device that was searched for, in words.

    Raises:
        UserError: the model is none of gemkit's, or the card cannot be written.
    """
    info = read_info(model)
    sections = [
        _front_matter(info, data, accuracy),
        _title(info, data),
        _facts(info, data, accuracy, test_images, training, budget, parity_max_abs),
        _latency(measurements, elsewhere),
        _files(Path(path).parent, [model, *files]),
        _usage(info, Path(model).name, _fixed_batch(model)),
    ]
    write_text(Path(path), "\n\n".join(section for section in sections if section) + "\n")


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy measured on so many images (Wilson 1927)."""
    z = _Z**2 / images
    middle = (accuracy + z / 2) / (1 + z)
    half = _Z / (1 + z) * math.sqrt(accuracy * (1 - accuracy) / images + z / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def _front_matter(info: ModelInfo, data: str, accuracy: float | None) -> str:
    """What the Hugging Face Hub reads of a card."""
    name = str(info.more.get("id", "network"))
    value: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "gemkit", "neural-architecture-search"],
    }
    if accuracy is not None:
        metric = {"type": "accuracy", "value": round(accuracy, 6), "name": "test accuracy"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-")},
            "metrics": [metric],
        }
        value |= {"metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}
    # JSON is YAML; a key on each line reads well.
    lines = (f"{key}: {json.dumps(one)}" for key, one in value.items())
    return "\n".join(["---", *lines, "---"])


def _title(info: ModelInfo, data: str) -> str:
    channels, height, width = info.input_shape
    known = "architecture" not in info.more
    kind = "grey" if channels == 1 else "colour" if channels == 3 else f"{channels}-channel"
    return (
        f"# {info.more.get('id', 'network')}\n\n"
        f"Classifies {kind} images of {height}x{width} pixels into {len(info.class_names)} classes"
        f" ({_shortened(info.class_names)}). Trained on {data}; "
        f"{'a known network,' if known else 'found,'} trained and exported by "
        f"gemkit {info.more.get('version', '')}.".replace(" .", ".")
    )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else ", ".join(names[:8]) + ", ..."


def _facts(
    info: ModelInfo,
    data: str,
    accuracy: float | None,
    images: int | None,
    training: str,
    budget: Budget | None,
    parity: float | None,
) -> str:
    rows = []
    if accuracy is not None:
        text = f"{100 * accuracy:.2f} %"
        if images:
            low, high = interval(accuracy, images)
            text += f" (95 % interval {100 * low:.2f} to {100 * high:.2f}, {images:,} images)"
        rows.append(("accuracy on the test set", text))
    rows.append(("data", data))
    if training:
        rows.append(("training", training))
    more = info.more
    if "macs" in more:
        rows.append(("multiply-accumulates", f"{format_count(more['macs'])} ({more['macs']:,})"))
    if "params" in more:
        rows.append(("parameters", f"{format_count(more['params'])} ({more['params']:,})"))
    if "peak_memory_bytes" in more:
        rows.append(("peak activation memory", f"{format_bytes(more['peak_memory_bytes'])}, fp32"))
    if budget is not None:
        rows.append(("limits asked for", budget.describe()))
    if parity is not None:
        rows.append(("largest difference from PyTorch", f"{parity:.1e}"))
    return _table(("what", "value"), rows)


def _latency(measurements: Sequence[Measurement], elsewhere: str | None) -> str:
    there = "" if elsewhere is None else f"{elsewhere}."
    if not measurements:
        return "\n\n".join(part for part in ("## Latency", there, "Not measured here.") if part)
    rows = []
    for one in measurements:
        latency = one.latency_ms
        rows.append(
            (
                one.precision,
                short_name(one.provider),
                str(one.threads),
                str(one.batch),
                *(
                    "" if value is None else format_latency(value)
                    for value in (latency.p50, latency.p90, latency.p99)
                ),
                f"{one.throughput:,.0f}",
            )
        )
    columns = ("precision", "provider", "threads", "batch", "p50", "p90", "p99", "images/s")
    lines = [f"- {note}" for one in measurements for note in one.notes or ()]
    machine, versions = measurements[0].machine, measurements[0].versions
    where = ", ".join(
        str(machine[name])
        for name in ("board", "processor", "gpu", "system")
        if machine.get(name) is not None
    )
    if machine.get("cores"):
        where += f", {machine['cores']} cores"
    text = "## Latency\n\n" + (there + "\n\n" if there else "")
    text += f"{_table(columns, rows)}\n\nMeasured on {where or 'an unnamed machine'}"
    text += f", onnxruntime {versions['onnxruntime']}." if "onnxruntime" in versions else "."
    return "\n\n".join([text, "\n".join(lines)]) if lines else text


def _files(folder: Path, files: Sequence[Path | str]) -> str:
    """All files with their own figures, as each says of itself."""
    rows = []
    for path in dict.fromkeys(Path(file).resolve() for file in files):
        if path.is_file():
            content, info = path.read_bytes(), read_info(path)
            place = path.name
            if path.is_relative_to(folder.resolve()):
                place = path.relative_to(folder.resolve()).as_posix()
            own = info.more
            accuracy, macs, peak = (
                own.get(name) for name in ("accuracy", "macs", "peak_memory_bytes")
            )
            rows.append(
                (
                    f"`{place}`",
                    info.precision,
                    "–" if accuracy is None else f"{100 * accuracy:.2f} %",
                    "–" if macs is None else format_count(macs),
                    "–" if peak is None else format_bytes(peak),
                    format_bytes(len(content)),
                    f"`{hashlib.sha256(content).hexdigest()}`",
                )
            )
    heads = ("file", "precision", "accuracy", "MACs", "peak memory", "size", "SHA-256")
    return "## Files\n\n" + _table(heads, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _fixed_batch(model: Path | str) -> int:
    """The batch that a file is fixed to; 1 where it takes any."""
    first = load_onnx(model).graph.input[0].type.tensor_type.shape.dim[0]
    return int(first.dim_value) or 1


def _usage(info: ModelInfo, file: str, batch: int) -> str:
    return f"""## How to run it

{input_text(info, batch)}

Python (`pip install onnxruntime numpy pillow`):

```python
{python_lines(info, file, batch)}
```

C++ (onnxruntime's C++ API):

```cpp
{cpp_lines(info, file, batch)}
```

Browser (`npm install onnxruntime-web`):

```js
{javascript_lines(info, file, batch)}
```"""
