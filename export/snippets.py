"""Programs that run an exported network: Python, C++ and JavaScript, with its own figures in them.

Each prepares an ordinary picture (8 bits, nothing transparent) as gemkit does: its largest middle
part of the input's shape, brought to the input's size and normalised.
"""

import json
from collections.abc import Sequence

from .exporter import ModelInfo

_MOST_NAMES = 100
"""More class names would be most of a program; it then gives the class's number."""


def input_text(info: ModelInfo, batch: int = 1) -> str:
    """What the network takes and gives, in sentences."""
    if info.preprocessing:
        say = "The input `image` takes the pixels, uint8 (batch, height, width, channels)."
    else:
        say = (
            f"The input `image` is {_kind(info)} (batch, channels, height, width): pixels / 255, "
            f"minus {_list(info.mean)}, divided by {_list(info.std)}, per channel."
        )
    say += f" The output is `{_output(info)}`, one per class."
    if batch > 1:
        say += f" The batch is fixed to {batch}; the lines below fill it with one image."
    return say


def python_lines(info: ModelInfo, file: str, batch: int = 1) -> str:
    """A program that classifies `image.png`; needs onnxruntime, numpy and pillow."""
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
        f'image = ImageOps.exif_transpose(Image.open("image.png")).convert("{mode}")',
        f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR)",
        f"x = np.asarray(image).reshape(1, {height}, {width}, {channels})",
    ]
    if not info.preprocessing:
        lines += [
            f"x = (x / 255 - np.array({_list(info.mean)})) / np.array({_list(info.std)})",
            f"x = x.transpose(0, 3, 1, 2).astype(np.{_kind(info)})",
        ]
    if batch > 1:
        lines.append(f"x = np.repeat(x, {batch}, axis=0)")
    lines += [
        'scores = session.run(None, {"image": x})[0][0]',
        'names = json.loads(session.get_modelmeta().custom_metadata_map["gemkit.class_names"])',
        "print(names[scores.argmax()])",
    ]
    return "\n".join(lines)


def cpp_lines(info: ModelInfo, file: str, batch: int = 1) -> str:
    """What a program in C++ needs; the picture's bytes come from the library of its own choice."""
    channels, height, width = info.input_shape
    size = channels * height * width
    if info.preprocessing:
        kind, shape = "uint8_t", f"{batch}, {height}, {width}, {channels}"
        prepare = "        pixels[i] = bytes[i % SIZE];"
    else:
        kind, shape = "float", f"{batch}, {channels}, {height}, {width}"
        prepare = f"""\
        const size_t c = i % SIZE / {height * width}, place = i % {height * width};
        pixels[i] = (bytes[place * {channels} + c] / 255.0f - MEAN[c]) / STD[c];"""
    numbers = ""
    if not info.preprocessing:
        mean, std = (_list(values)[1:-1] for values in (info.mean, info.std))
        numbers = f"\nconst float MEAN[] = {{{mean}}}, STD[] = {{{std}}};"
    return f"""\
#include <algorithm>
#include <array>
#include <onnxruntime_cxx_api.h>
#include <vector>

const size_t SIZE = {size};  // {height} rows x {width} columns x {channels} channels{numbers}

// The class of a picture whose bytes stand row by row, all channels of a pixel together.
long classify(Ort::Session& session, const uint8_t* bytes) {{
    std::vector<{kind}> pixels({batch} * SIZE);
    for (size_t i = 0; i < pixels.size(); ++i) {{
{prepare}
    }}
    std::array<int64_t, 4> shape{{{shape}}};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto image = Ort::Value::CreateTensor<{kind}>(
        memory, pixels.data(), pixels.size(), shape.data(), shape.size());
    const char* inputs[] = {{"image"}};
    const char* outputs[] = {{"{_output(info)}"}};
    auto result = session.Run(Ort::RunOptions{{}}, inputs, &image, 1, outputs, 1);
    const float* scores = result[0].GetTensorData<float>();
    return std::max_element(scores, scores + {len(info.class_names)}) - scores;
}}

// Ort::Env env;
// Ort::Session session(env, "{file}", Ort::SessionOptions{{}});  // a wide string on Windows"""


def javascript_lines(info: ModelInfo, file: str, batch: int = 1) -> str:
    """A module for browsers that classifies `image.png`; needs onnxruntime-web."""
    channels, height, width = info.input_shape
    value = "0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2]"
    if channels > 1:
        value = "rgba[4 * i + c]"
    if info.preprocessing:
        array, kind, shape = "Uint8Array", "uint8", f"{batch}, height, width, {channels}"
        place, numbers = f"{channels} * i + c", ""
    else:
        array, kind, shape = "Float32Array", "float32", f"{batch}, {channels}, height, width"
        place = "c * width * height + i"
        value = f"(({value}) / 255 - mean[c]) / std[c]"
        numbers = f"\nconst mean = {_list(info.mean)}, std = {_list(info.std)};"
    names, found = "", "best"
    if len(info.class_names) <= _MOST_NAMES:
        quoted = json.dumps(list(info.class_names))
        names, found = f"\nconst names = {quoted};", "names[best]"
    repeat, output = "", _output(info)
    if batch > 1:
        repeat = f"\nfor (let n = 1; n < {batch}; n++) pixels.copyWithin(n * size, 0, size);"
    return f"""\
import * as ort from "onnxruntime-web";

const width = {width}, height = {height}, size = {channels} * width * height;{numbers}{names}
const picture = await createImageBitmap(await (await fetch("image.png")).blob());
const context = new OffscreenCanvas(width, height).getContext("2d");
const scale = Math.max(width / picture.width, height / picture.height);
const [wide, tall] = [scale * picture.width, scale * picture.height];
context.drawImage(picture, (width - wide) / 2, (height - tall) / 2, wide, tall);
const rgba = context.getImageData(0, 0, width, height).data;
const pixels = new {array}({batch} * size);
for (let c = 0; c < {channels}; c++)
  for (let i = 0; i < width * height; i++)
    pixels[{place}] = {value};{repeat}
const session = await ort.InferenceSession.create("{file}");
const image = new ort.Tensor("{kind}", pixels, [{shape}]);
const {{ {output} }} = await session.run({{ image }});
const scores = {output}.data.subarray(0, {len(info.class_names)});
const best = scores.indexOf(Math.max(...scores));
console.log({found});"""


def _kind(info: ModelInfo) -> str:
    """The type of the numbers that a file takes which are no pixels."""
    return "float16" if info.precision == "fp16" else "float32"


def _output(info: ModelInfo) -> str:
    return "probabilities" if info.softmax else "logits"


def _list(values: Sequence[float]) -> str:
    """Numbers as they stand in programs, short."""
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
