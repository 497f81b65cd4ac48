"""The model card, `card.md`: what a delivered network is, costs, reaches, and how to run it."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from gemkit.budget import Budget, format_bytes, format_count, format_latency
from gemkit.files import write_text
from gemkit.records import Measurement

from .exporter import ModelInfo, read_info
from .onnx_file import load_onnx
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


def python_lines(info: ModelInfo, file: str, image: str = "image.png", batch: int = 1) -> str:
    """A program that classifies one image; needs onnxruntime, numpy and pillow."""
    channels, height, width = info.input_shape
    mode = "L" if channels == 1 else "RGB"
    lines = [
        "import json",
        "import numpy as np",
        "import onnxruntime as ort",
        "from PIL import Image, ImageOps",
        "",
        f'session = ort.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        "# Ordinary pictures: 8 bits, nothing transparent. gemkit.pictures.read_picture reads all.",
        f'image = ImageOps.exif_transpose(Image.open("{image}")).convert("{mode}")',
        f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR)",
        f"x = np.asarray(image).reshape(1, {height}, {width}, {channels})",
    ]
    if not info.preprocessing:
        mean, std = (json_list(values) for values in (info.mean, info.std))
        kind = "float16" if info.precision == "fp16" else "float32"
        lines += [
            f"x = (x / 255 - np.array({mean})) / np.array({std})",
            f"x = x.transpose(0, 3, 1, 2).astype(np.{kind})",
        ]
    if batch > 1:
        lines.append(f"x = np.repeat(x, {batch}, axis=0)")
    lines += [
        'scores = session.run(None, {"image": x})[0][0]',
        'names = json.loads(session.get_modelmeta().custom_metadata_map["gemkit.class_names"])',
        "print(names[scores.argmax()])",
    ]
    return "\n".join(lines)


def json_list(values: Sequence[float]) -> str:
    """Numbers as they stand in programs, short."""
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


def _fixed_batch(model: Path | str) -> int:
    """The batch that a file is fixed to; 1 where it takes any."""
    first = load_onnx(model).graph.input[0].type.tensor_type.shape.dim[0]
    return int(first.dim_value) or 1


def _usage(info: ModelInfo, file: str, batch: int) -> str:
    channels, height, width = info.input_shape
    size = batch * channels * height * width
    if info.preprocessing:
        layout, kind, cpp, js = (
            f"{batch}, {height}, {width}, {channels}",
            "uint8",
            "uint8_t",
            "Uint8Array",
        )
        say = "The input `image` takes the pixels, uint8 (batch, height, width, channels)."
    else:
        layout, kind, cpp, js = (
            f"{batch}, {channels}, {height}, {width}",
            "float32",
            "float",
            "Float32Array",
        )
        say = (
            "The input `image` is float32 (batch, channels, height, width): pixels / 255, minus "
            f"{json_list(info.mean)}, divided by {json_list(info.std)}, per channel."
        )
    output = "probabilities" if info.softmax else "logits"
    say += f" The output is `{output}`, one per class."
    if batch > 1:
        say += f" The batch is fixed to {batch}; the lines below fill it with one image."
    return f"""## How to run it

{say}

Python (`pip install onnxruntime numpy pillow`):

```python
{python_lines(info, file, batch=batch)}
```

C++ (onnxruntime's C++ API; `pixels` holds the prepared image):

```cpp
#include <onnxruntime_cxx_api.h>

Ort::Env env;
Ort::Session session(env, "{file}", Ort::SessionOptions{{}});  // a wide string on Windows
std::vector<{cpp}> pixels({size});
std::array<int64_t, 4> shape{{{layout}}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
auto image = Ort::Value::CreateTensor<{cpp}>(
    memory, pixels.data(), pixels.size(), shape.data(), shape.size());
const char* inputs[] = {{"image"}};
const char* outputs[] = {{"{output}"}};
auto result = session.Run(Ort::RunOptions{{}}, inputs, &image, 1, outputs, 1);
const float* scores = result[0].GetTensorData<float>();
```

Browser (`npm install onnxruntime-web`; `pixels` is a {js} of {size} numbers):

```js
import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create("{file}");
const image = new ort.Tensor("{kind}", pixels, [{layout}]);
const {{ {output} }} = await session.run({{ image }});
const best = {output}.data.indexOf(Math.max(...{output}.data));
```"""
