"""The C99 files of a program: sources with static memory in one array, and how to build them.

    files = c_files(program, image=pixels, label=3)     # name -> text

`network.c` calls the functions of `kernels.h` one after the other on places of the array; the
kernels are hand-written and lie in `sources/`, what is written here are numbers and calls.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit.budget import format_bytes, format_count

from .arena import Arena, arena
from .program import (
    Addition,
    Bounds,
    Convolution,
    Join,
    Mean,
    Operation,
    Pool,
    Program,
    Ratio,
    Sum,
    Tensor,
    Window,
)

SOURCES = Path(__file__).parent / "sources"
"""Where the hand-written C lies."""
_WIDTH = 100


@dataclass(frozen=True)
class Image:
    """An image for the example: uint8 pixels (height, width, channels), and its class if known."""

    pixels: NDArray[np.uint8]
    label: int | None = None


@cache
def source(name: str) -> str:
    """A hand-written C file."""
    return (SOURCES / name).read_text(encoding="utf-8")


def c_files(program: Program, image: Image) -> dict[str, str]:
    """The files of a C project by name.

    Args:
        image: for `main.c` to classify.
    """
    places = arena(program.steps)
    writer = _Writer(program, places)
    calls = "\n".join(line for one in program.operations for line in writer.operation(one))
    kind = "int8" if program.integer else "fp32"
    return {
        "network.h": _header(program, places),
        "network.c": _main_file(program, places, writer, calls),
        "weights.h": "\n".join([*writer.arrays, ""]),
        **{
            f"kernels.{end}": source(f"kernels_common.{end}") + source(f"kernels_{kind}.{end}")
            for end in "ch"
        },
        "image.h": _image(image),
        "main.c": source("main.c"),
        "Makefile": source("Makefile"),
    }


def _header(program: Program, places: Arena) -> str:
    info, item = program.info, _item(program)
    channels, height, width = info.input_shape
    output = program.tensors[program.output]
    value = "(number)"
    meaning = "the logits of the classes: the largest is the class"
    if program.integer:
        value = f"((float)((number) - {output.zero}) * {_float(output.scale)})"
        meaning += "; NETWORK_VALUE(number)\n   is the real number that an 8-bit one stands for"
    about = [f"trained on {info.more['data']}"] if "data" in info.more else []
    if isinstance(info.more.get("accuracy"), float):
        about.append(f"accuracy {100 * info.more['accuracy']:.2f} % in ONNX")
    if "macs" in info.more:
        about.append(f"{format_count(info.more['macs'])} multiply-accumulates")
    mean, std = (", ".join(f"{one:.6g}" for one in values) for values in (info.mean, info.std))
    return f"""\
/* A network for images of {height}x{width} pixels with {channels} channels, in \
{"8-bit integers" if program.integer else "32-bit floats"}.
   Written by gemkit {info.more.get("version", "")}{"; " + ", ".join(about) if about else ""}.

   Write an image to network_pixels(), call network_run(), and read what it gives before the next
   image: {meaning}.
   The pixels are 0 to 255, row by row, the channels of a pixel together. The network scales them to
   0..1 and normalises them itself, with mean {mean} and standard deviation {std}.
   All memory is one static array of {format_bytes(places.size * item)}; nothing is allocated. */

#ifndef NETWORK_H
#define NETWORK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define NETWORK_HEIGHT {height}
#define NETWORK_WIDTH {width}
#define NETWORK_CHANNELS {channels}
#define NETWORK_PIXELS (NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS)
#define NETWORK_CLASSES {len(info.class_names)}
#define NETWORK_ARENA_BYTES {places.size * item}
#define NETWORK_VALUE(number) {value}

typedef {"uint8_t" if program.integer else "float"} network_number;

extern const char *const network_class_names[NETWORK_CLASSES];

uint8_t *network_pixels(void);
const network_number *network_run(void);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _main_file(program: Program, places: Arena, writer: "_Writer", calls: str) -> str:
    first = program.tensors[program.input]
    start = places.offsets[first.buffer]
    names = ",\n    ".join(_text(name) for name in program.info.class_names)
    if program.integer:
        writer.array("uint8_t", "normalised", program.normalise)
        pixels = f"arena + {start}"
        normalise = f"        x[i] = normalised[i % {first.channels} * 256 + x[i]];"
        pointer = f"    uint8_t *x = arena + {start};"
    else:
        writer.array("float", "normalise", program.normalise.T)
        # The pixels lie at the end of the room of their floats, and are read before that is taken.
        pixels = f"(uint8_t *)(arena + {start}) + {3 * first.values}"
        pointer = f"    float *x = arena + {start};\n    const uint8_t *pixels = network_pixels();"
        normalise = (
            f"        x[i] = pixels[i] * normalise[i % {first.channels} * 2] + "
            f"normalise[i % {first.channels} * 2 + 1];"
        )
    output = places.offsets[program.tensors[program.output].buffer]
    return f"""\
#include "network.h"

#include "kernels.h"
#include "weights.h"

const char *const network_class_names[NETWORK_CLASSES] = {{
    {names},
}};

static network_number arena[{places.size}];

uint8_t *network_pixels(void) {{ return {pixels}; }}

const network_number *network_run(void) {{
{pointer}
    for (int i = 0; i < NETWORK_PIXELS; i++)
{normalise}
{calls}
    return arena + {output};
}}
"""


class _Writer:
    """Writes operations as calls, and collects their constants in `arrays`."""

    def __init__(self, program: Program, places: Arena) -> None:
        self.program, self.places = program, places
        self.arrays: list[str] = []
        self.number = 0

    def array(self, kind: str, name: str, values: NDArray[Any]) -> str:
        """Add a constant array; gives its name."""
        flat = values.ravel().tolist()
        texts = [_float(one) for one in flat] if kind == "float" else [str(one) for one in flat]
        self.arrays.append(f"static const {kind} {name}[{len(flat)}] = {{\n{_wrapped(texts)}\n}};")
        return name

    def struct(self, kind: str, name: str, fields: Iterable[Any]) -> str:
        """Add a constant structure; gives its address."""
        self.arrays.append(f"static const {kind} {name} = {{{', '.join(map(str, fields))}}};")
        return f"&{name}"

    def operation(self, one: Operation) -> list[str]:
        """The lines of an operation."""
        self.number += 1
        match one:
            case Convolution():
                return self._convolution(one)
            case Pool():
                shapes = self.struct(
                    "window", f"window_{self.number}", self._shapes(one.x, one.y, one.window)
                )
                return [f"    network_max_pool({shapes}, {self._at(one.x)}, {self._at(one.y)});"]
            case Mean():
                x = self._tensor(one.x)
                rescaling = self._rescaling(one.x, one.y, one.ratio, one.bounds)
                more = f", {rescaling}" if self.program.integer else ""
                size = f"{x.height * x.width}, {x.channels}"
                return [f"    network_mean({self._at(one.x)}, {size}, {self._at(one.y)}{more});"]
            case Join():
                return self._join(one)
            case Sum():
                return self._sum(one)

    def _convolution(self, one: Convolution) -> list[str]:
        number = self.number
        integer = self.program.integer
        number_type, sum_type = ("int8_t", "int32_t") if integer else ("float", "float")
        weights, bias = (one.weights, one.bias) if one.depthwise else _in_fours(one)
        arrays = [
            self.array(number_type, f"weights_{number}", weights),
            self.array(sum_type, f"bias_{number}", bias),
        ]
        ends: list[Any] = [_float(one.bounds.low), _float(one.bounds.high)]
        if integer:
            assert one.ratio is not None
            zeros = self._tensor(one.x).zero, self._tensor(one.y).zero
            ends = [*zeros, one.bounds.low, one.bounds.high]
            multiplier, shift = np.array(one.ratio.multiplier), np.array(one.ratio.shift)
            arrays.append(self.array("int32_t", f"multiplier_{number}", multiplier))
            arrays.append(self.array("uint8_t", f"shift_{number}", shift))
        shapes = ", ".join(map(str, self._shapes(one.x, one.y, one.window)))
        fields = [f"{{{shapes}}}", *ends, *arrays]
        about = self.struct("convolution", f"convolution_{number}", fields)
        name = "network_convolve_depthwise" if one.depthwise else "network_convolve"
        return [f"    {name}({about}, {self._at(one.x)}, {self._at(one.y)});"]

    def _join(self, one: Join) -> list[str]:
        y = self._tensor(one.y)
        lines, done = [], 0
        left = y.channels - sum(self._tensor(name).channels for name in one.xs)
        if left:
            zero = y.zero if self.program.integer else "0"
            lines += [
                f"    for (int i = 0; i < {y.values}; i++)",
                f"        ({self._at(one.y)})[i] = {zero};",
            ]
        for index, (name, ratio) in enumerate(zip(one.xs, one.ratios, strict=True)):
            x = self._tensor(name)
            more = f"{_float(one.bounds.low)}, {_float(one.bounds.high)}"
            if self.program.integer:
                more = "0"
                if ratio is not None:
                    more = self._rescaling(name, one.y, ratio, one.bounds, f"_{index}")
            place = self._at(one.y, done)
            size = f"{x.height * x.width}, {x.channels}, {place}, {y.channels}"
            lines.append(f"    network_join({self._at(name)}, {size}, {more});")
            done += x.channels
        return lines

    def _sum(self, one: Sum) -> list[str]:
        count = self._tensor(one.y).values
        return [
            f"    for (int i = 0; i < {count}; i++)",
            f"        ({self._at(one.y)})[i] = {self._added(one.addition, 'a')};",
        ]

    def _added(self, part: Addition | str, suffix: str) -> str:
        if isinstance(part, str):
            return f"({self._at(part)})[i]"
        a, b = self._added(part.a, suffix + "a"), self._added(part.b, suffix + "b")
        low, high = part.bounds.low, part.bounds.high
        if part.ratio is None:
            if (low, high) == (-math.inf, math.inf):
                return f"({a} + {b})"
            return f"bounded({a} + {b}, {_float(low)}, {_float(high)})"
        zeros = [
            one.zero if isinstance(one, Addition) else self._tensor(one).zero
            for one in (part.a, part.b)
        ]
        fields = [*part.ratio.multiplier, part.ratio.shift[0], *zeros, part.zero, low, high]
        return f"added({a}, {b}, {self.struct('addition', f'sum_{self.number}{suffix}', fields)})"

    def _rescaling(
        self, x: str, y: str, ratio: Ratio | None, bounds: Bounds, suffix: str = ""
    ) -> str:
        if ratio is None:
            return "0"
        zeros = self._tensor(x).zero, self._tensor(y).zero
        fields = [ratio.multiplier[0], ratio.shift[0], *zeros, bounds.low, bounds.high]
        return self.struct("rescaling", f"rescaling_{self.number}{suffix}", fields)

    def _shapes(self, x: str, y: str, window: Window) -> list[int]:
        here, there = self._tensor(x), self._tensor(y)
        maps = [here.height, here.width, here.channels, there.height, there.width, there.channels]
        return [*maps, window.height, window.width, window.stride, window.top, window.left]

    def _tensor(self, name: str) -> Tensor:
        return self.program.tensors[name]

    def _at(self, name: str, channel: int = 0) -> str:
        return f"arena + {self.places.offsets[self._tensor(name).buffer] + channel}"


def _in_fours(one: Convolution) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights (group of four, row, column, input channel, output channel) and biases, with zeros
    where the last group has no channel."""
    missing = -len(one.weights) % 4
    weights = np.pad(one.weights, [(0, missing), (0, 0), (0, 0), (0, 0)])
    grouped = weights.reshape(-1, 4, *weights.shape[1:]).transpose(0, 2, 3, 4, 1)
    return grouped, np.pad(one.bias, (0, missing))


def _image(image: Image) -> str:
    texts = [str(value) for value in image.pixels.ravel().tolist()]
    label = -1 if image.label is None else image.label
    return (
        "/* An image of the test set, for the example. */\n\n#include <stdint.h>\n\n"
        f"static const int image_class = {label};\n"
        f"static const uint8_t image[{len(texts)}] = {{\n{_wrapped(texts)}\n}};\n"
    )


def _item(program: Program) -> int:
    return 1 if program.integer else 4


def _float(value: Any) -> str:
    """A float as a C constant, exactly."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{np.float32(value).item():.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _text(value: str) -> str:
    """A text as a C constant: what is not plain ASCII as octal numbers of its UTF-8."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in value.encode()
    )
    return f'"{plain}"'


def _wrapped(texts: Iterable[str]) -> str:
    lines, line = [], ""
    for text in texts:
        if len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = ""
        line += f"{' ' if line else '    '}{text},"
    return "\n".join([*lines, line])
