"""Half precision and 8-bit integers, each beside the fp32 file it was made from.

    found = to_int8(fp32_file, target, training=(x_train, y_train), test=(x_test, y_test))
    found.accuracy, found.speedup, found.notes

Nothing is assumed about what is faster or as accurate: each conversion is measured here, and says
so in `notes` when it is slower than fp32 or loses more than a point, with the reason as far as
onnxruntime's own optimised graph shows it. Ours; the rewriting of the graph is onnxruntime's.

int8 is static quantisation with QuantizeLinear and DequantizeLinear, weights per channel, ranges
of activations from training images. How the ranges are taken and which layers stay in float is
chosen by accuracy on other training images; the test images are looked at once, at the end.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.files import replacing
from gemkit.recommendation import TOLERATED_LOSS

from .benchmark import latency_ms
from .exporter import (
    Images,
    ModelInfo,
    accuracy_of,
    check_file,
    fixed_batch,
    info_of,
    quiet,
    run_batched,
    set_info,
)
from .figures import Figures, count, describe
from .graph import Graph, Node, read, write
from .onnx_file import load_onnx
from .rewrites import pool_globally
from .timing import open_session

Labels = NDArray[np.int64]
Labelled = tuple[Images, Labels]
Ranges = dict[str, tuple[float, float]]

CALIBRATION_IMAGES = 256
"""Training images that the ranges of activations are taken from."""
CHOICE_IMAGES = 1000
"""Other training images, on which method and float layers are chosen."""
ENOUGH = 0.003
"""Loss on the choice images below which no layer is kept in float."""
_METHODS = {"min-max": 0.0, "99.99 %": 1e-4, "99.9 %": 1e-3}
"""Share of a tensor's values, half at each end, that lies outside its range."""
_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Relu", "Clip", "Concat", "MaxPool", "Add", "Mul"),
    "GlobalAveragePool",
)
"""What onnxruntime computes in 8 bits."""
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
_ACTIVATION_BYTES = 100_000_000


@dataclass(frozen=True)
class Converted:
    """A file of another precision beside its fp32 source.

    Attributes:
        path, precision: of the new file.
        accuracy, reference_accuracy: of both files, on the test images.
        file_bytes, reference_bytes: sizes.
        latency_ms, reference_latency_ms: p50 here, batch 1, one thread, CPU, side by side.
        method: how ranges were taken; None for fp16.
        float_layers: names of the operators that were left in float.
        notes: sentences for the user: what is slower or worse, and why.
        sha256: of the new file.
        figures: what the new file costs.
    """

    path: Path
    precision: str
    accuracy: float
    reference_accuracy: float
    file_bytes: int
    reference_bytes: int
    latency_ms: float
    reference_latency_ms: float
    method: str | None
    float_layers: tuple[str, ...]
    notes: tuple[str, ...]
    sha256: str
    figures: Figures

    @property
    def speedup(self) -> float:
        """How many times faster than fp32."""
        return self.reference_latency_ms / self.latency_ms

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "onnx": str(self.path),
            "precision": self.precision,
            "accuracy": self.accuracy,
            "reference_accuracy": self.reference_accuracy,
            "file_bytes": self.file_bytes,
            "reference_bytes": self.reference_bytes,
            "latency_ms": {"p50": self.latency_ms},
            "reference_latency_ms": {"p50": self.reference_latency_ms},
            "speedup": self.speedup,
            "method": self.method,
            "float_layers": list(self.float_layers),
            "notes": list(self.notes),
            "sha256": self.sha256,
            **self.figures.to_json(),
        }


def to_fp16(source: Path | str, target: Path | str, *, test: Labelled) -> Converted:
    """Write a file whose weights and activations are fp16; input and output stay fp32.

    Raises:
        UserError: the source is no fp32 file of gemkit's, or the target cannot be written.
    """
    model, info = _source(source)
    _check_images(test[0], info, "test images")
    with quiet():
        half = _sorted(convert_float_to_float16(model, keep_io_types=True))
    return _deliver(half, info, "fp16", Path(source), Path(target), test, None, ())


def to_int8(
    source: Path | str,
    target: Path | str,
    *,
    training: Labelled,
    test: Labelled,
    whole: bool = False,
    limits: Budget | None = None,
    progress: Callable[[float], None] | None = None,
) -> Converted:
    """Write a file of 8-bit weights and activations.

    Args:
        training: labelled training images; up to CALIBRATION_IMAGES of them give the ranges and
            up to CHOICE_IMAGES others decide about method and float layers.
        test: for the accuracy that is reported.
        whole: leave no layer in float, whatever that costs: for processors of integers.
        limits: no layer is left in float where the file would then leave them.
        progress: called with the share done.

    Raises:
        UserError: the source is no fp32 file of gemkit's, the images have another shape, or the
            target cannot be written.
    """
    model, info = _source(source)
    for images, what in ((training[0], "calibration images"), (test[0], "test images")):
        _check_images(images, info, what)
    order = np.random.default_rng(0).permutation(len(training[0]))
    # Few images are shared half and half.
    cut = min(CALIBRATION_IMAGES, max(1, len(order) // 2))
    calibration = order[:cut]
    choice = order[cut : cut + CHOICE_IMAGES] if len(order) > cut else order
    x, y = training[0][choice], training[1][choice]
    with quiet():
        model = prepared(model)
        ranges = tensor_ranges(model, info.normalise(training[0][calibration]))
        attempt = Attempt(model, ranges, info.normalise(x), y, limits)
        method, left = choose(attempt, progress, whole)
        quantised = _quantised(model, ranges[method], left)
    return _deliver(quantised, info, "int8", Path(source), Path(target), test, method, left)


def _source(path: Path | str) -> tuple[onnx.ModelProto, ModelInfo]:
    model = load_onnx(path)
    info = info_of(model, str(path))
    if info.precision != "fp32":
        raise UserError(f"{path} is {info.precision} already: give the fp32 file")
    return model, info


def _check_images(images: Images, info: ModelInfo, what: str) -> None:
    channels, height, width = info.input_shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        raise UserError(
            f"the {what} are {images.dtype} of shape {images.shape[1:]}, but the network takes "
            f"uint8 of shape {(height, width, channels)}"
        )
    if not len(images):
        raise UserError(f"there are no {what}")


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the nodes in an order of execution: onnxruntime's tools append what they insert.

    Nodes keep their order, and what was inserted comes just before it is needed, so that the order
    needs no more memory than the model's that was converted.
    """
    writer = {name: node for node in model.graph.node for name in node.output}
    order: dict[str, onnx.NodeProto] = {}  # by a node's first output

    def add(node: onnx.NodeProto) -> None:
        if node.output[0] not in order:
            for name in node.input:
                if name in writer:
                    add(writer[name])
            order[node.output[0]] = node

    for node in model.graph.node:
        add(node)
    nodes = list(order.values())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """With shapes inferred, every node named, as onnxruntime's quantiser needs it, and means as
    global pooling, which alone onnxruntime computes in 8 bits."""
    return onnx.shape_inference.infer_shapes(write(pool_globally(read(model))))


def _activations(model: onnx.ModelProto) -> list[str]:
    """Names of all float tensors that depend on the input."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        value.name
        for value in values
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and value.name not in constants
    ]


def tensor_ranges(model: onnx.ModelProto, inputs: NDArray[Any]) -> dict[str, Ranges]:
    """Range of every activation, by method.

    Min-max is over all images; the others are the means over batches of the batch's quantiles,
    so that memory stays bounded whatever the network.
    """
    names = _activations(model)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name: value for value in model.graph.value_info}
    given = {value.name for value in [*model.graph.input, *model.graph.output]}
    probe.graph.output.extend(known[name] for name in names if name not in given)
    session = open_session(probe.SerializeToString(), threads=0)
    outputs = [output.name for output in session.get_outputs()]
    image = session.get_inputs()[0].name
    size = sum(
        int(np.prod([d.dim_value or 1 for d in value.type.tensor_type.shape.dim])) * 4
        for value in known.values()
    )
    batch = fixed_batch(session) or int(np.clip(_ACTIVATION_BYTES // max(size, 1), 1, 64))
    missing = -len(inputs) % batch if fixed_batch(session) else 0
    inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    levels = np.array(list(_METHODS.values()))
    points = np.concatenate([levels / 2, 1 - levels / 2])
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        values = dict(zip(outputs, session.run(outputs, {image: part}), strict=True))
        values[image] = part
        for name in names:
            # Beyond some 100,000 values a part of them gives the quantiles as well.
            flat = np.asarray(values[name], dtype=np.float32).ravel()
            ends = flat.min(), flat.max()
            thinned = flat[:: max(1, len(flat) // 100_000)]
            quantiles = np.quantile(thinned, points)
            quantiles[0], quantiles[len(levels)] = ends
            found[name].append(quantiles)
    ranges: dict[str, Ranges] = {method: {} for method in _METHODS}
    for name in names:
        rows = np.array(found[name])
        for index, method in enumerate(_METHODS):
            low, high = rows[:, index], rows[:, len(levels) + index]
            if index == 0:
                pair = float(low.min()), float(high.max())
            else:
                pair = float(low.mean()), float(high.mean())
            ranges[method][name] = pair
    return ranges


def _quantised(model: onnx.ModelProto, ranges: Ranges, left: Sequence[str]) -> onnx.ModelProto:
    """The graph with quantised operators, but for those in `left`."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    in_float = _in_float(model, left)
    quantizer = QDQQuantizer(
        copied,
        True,  # per channel
        False,  # the whole range of 8 bits
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        in_float,
        list(_OPERATORS),
        {},
    )
    quantizer.quantize_model()
    graph = _padded_in_8_bits(read(_sorted(quantizer.model.model)))
    return write(_without_idle_pairs(graph, in_float))


def _padded_in_8_bits(graph: Graph) -> Graph:
    """With padding of the 8-bit numbers themselves, by their zero: onnxruntime's quantiser would
    have them converted to floats and back, only to be moved."""
    moved: dict[str, Node] = {}  # by the quantisation that a padding takes the place of
    scales: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        before, after = graph.producer.get(node.inputs[0]), graph.only_reader(node.output)
        if (
            node.op == "Pad"
            and before is not None
            and before.op == "DequantizeLinear"
            and after is not None
            and after.op == "QuantizeLinear"
            and _pads_zeros(graph, node)
        ):
            numbers, scale, zero = before.inputs
            made = Node("Pad", (numbers, node.inputs[1], zero), after.outputs, node.attributes)
            moved[after.output] = made
            scales[after.output] = (scale, zero)
    nodes = []
    for node in graph.nodes:
        if node.op == "DequantizeLinear" and node.inputs[0] in scales:
            node = replace(node, inputs=(node.inputs[0], *scales[node.inputs[0]]))
        nodes.append(moved.get(node.output, node))
    return graph.with_nodes(nodes) if moved else graph


def _pads_zeros(graph: Graph, node: Node) -> bool:
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    constant = node.attributes.get("mode", b"constant") == b"constant"
    return constant and (not given or not np.any(graph.constants.get(given, 1)))


def _without_idle_pairs(graph: Graph, in_float: Sequence[str]) -> Graph:
    """Where what computes in float reads what was computed in float, without the conversion to 8
    bits and back that stands between for the sake of other readers."""

    def is_float(node: Node | None) -> bool:
        return node is not None and (
            node.output in in_float
            or node.op not in (*_OPERATORS, "QuantizeLinear", "DequantizeLinear")
        )

    direct = {}  # by what a pair gives: what was before it
    for node in graph.nodes:
        pair = graph.producer.get(node.inputs[0]), node
        if [one.op for one in pair if one] == ["QuantizeLinear", "DequantizeLinear"]:
            source = graph.producer[node.inputs[0]].inputs[0]
            if is_float(graph.producer.get(source)):
                direct[node.output] = source
    return graph.with_nodes(
        replace(node, inputs=tuple(direct.get(name, name) for name in node.inputs))
        if is_float(node)
        else node
        for node in graph.nodes
    )


def _in_float(model: onnx.ModelProto, left: Sequence[str]) -> list[str]:
    """Names of what stays in float: the nodes in `left` with what only selects of their results,
    and preprocessing inside the graph."""
    names = set(left)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        names.add(node.name)
    writer = {name: node.name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip", "MaxPool") and writer.get(node.input[0]) in names:
            names.add(node.name)
    return sorted(names)


@dataclass(frozen=True)
class Attempt:
    """What candidates are judged on."""

    model: onnx.ModelProto
    ranges: Mapping[str, Ranges]
    inputs: NDArray[Any]
    labels: Labels
    limits: Budget | None = None

    def outputs(self, model: onnx.ModelProto) -> NDArray[Any]:
        return run_batched(open_session(model.SerializeToString(), threads=0), self.inputs)

    def loss(self, method: str, left: Sequence[str], wanted: NDArray[Any]) -> tuple[float, float]:
        """Accuracy lost against fp32, then the mean squared difference of the outputs."""
        found = self.outputs(_quantised(self.model, self.ranges[method], left))
        lost = (wanted.argmax(1) == self.labels).mean() - (found.argmax(1) == self.labels).mean()
        return float(lost), float(((found - wanted) ** 2).mean())

    def fits(self, method: str, left: Sequence[str]) -> bool:
        """Whether a candidate keeps the limits."""
        if self.limits is None:
            return True
        return not count(_quantised(self.model, self.ranges[method], left)).over(
            self.limits, "int8"
        )


def choose(
    trial: Attempt, progress: Callable[[float], None] | None, whole: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Method and, but for a file that is wholly in 8 bits, layers to leave in float where accuracy
    needs it."""
    wanted = trial.outputs(trial.model)
    sets = [] if whole else candidates_for_float(trial.model)
    total, done = len(_METHODS) + len(sets), 0

    def judged(method: str, left: tuple[str, ...]) -> tuple[float, float]:
        nonlocal done
        result = trial.loss(method, left, wanted)
        done += 1
        if progress is not None:
            progress(done / total)
        return result

    losses = {method: judged(method, ()) for method in _METHODS}
    method = min(losses, key=lambda name: losses[name])
    best: tuple[str, ...] = ()
    least = losses[method]
    # The sets grow: the first that is good enough leaves the fewest layers in float.
    for left in sets:
        if least[0] <= ENOUGH:
            break
        if not trial.fits(method, left):
            continue
        found = judged(method, left)
        if found < least:
            best, least = left, found
    if progress is not None:
        progress(1.0)
    return method, best


def candidates_for_float(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Sets of layers worth keeping in float: the ends of the network, its depthwise layers."""
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    first, last = layers[0].name, layers[-1].name
    depthwise = [
        node.name
        for node in layers
        if any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
    ]
    sums = [node.name for node in model.graph.node if node.op_type in ("Add", "Concat")]
    sets = [(first,), (last,), (first, last)]
    if sums:
        sets.append((first, last, *sums))
    if depthwise:
        sets += [(first, last, *depthwise), (first, last, *depthwise, *sums)]
    return sets


def _deliver(
    model: onnx.ModelProto,
    info: ModelInfo,
    precision: str,
    source: Path,
    target: Path,
    test: Labelled,
    method: str | None,
    left: tuple[str, ...],
) -> Converted:
    """Check the file, measure it beside its source, and put it in its place."""
    with replacing(target) as temporary:
        more = dict(info.more)
        if method is not None:
            more |= {"calibration": method, "float_layers": list(left)}
        described = replace(info, precision=precision, more=more)
        set_info(model, described)
        own = count(model)
        describe(model, own)
        temporary.write_bytes(model.SerializeToString())
        check_file(temporary)
        _check_batches(temporary, described)
        accuracy = accuracy_of(temporary, *test)
        describe(model, own, accuracy=accuracy)
        temporary.write_bytes(model.SerializeToString())
        reference = accuracy_of(source, *test)
        times = latency_ms([source, temporary])
        notes = _notes(precision, temporary, accuracy, reference, times)
        content = temporary.read_bytes()
    return Converted(
        target,
        precision,
        accuracy,
        reference,
        len(content),
        source.stat().st_size,
        times[1],
        times[0],
        method,
        left,
        notes,
        hashlib.sha256(content).hexdigest(),
        own,
    )


def _check_batches(path: Path, info: ModelInfo) -> None:
    """The written file must give one finite row per image, alone as in a batch."""
    session = open_session(path, threads=0)
    channels, height, width = info.input_shape
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), np.uint8)
    inputs = info.normalise(images)
    together, alone = run_batched(session, inputs), run_batched(session, inputs[:1])
    if together.shape != (3, len(info.class_names)) or not np.isfinite(together).all():
        raise RuntimeError(f"the {info.precision} file gives {together.shape}, or no numbers")
    if np.abs(together[:1] - alone).max() > 0.05 * max(1.0, float(np.abs(together).max())):
        raise RuntimeError(f"the {info.precision} file depends on the batch")


def _notes(
    precision: str,
    path: Path,
    accuracy: float,
    reference: float,
    times: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    lost = reference - accuracy
    if lost > TOLERATED_LOSS:
        notes.append(
            f"{precision} loses {100 * lost:.1f} points of accuracy "
            f"({100 * reference:.2f} % to {100 * accuracy:.2f} %)"
        )
    if times[1] > times[0]:
        notes.append(
            f"{precision} is slower than fp32 here ({times[0] / times[1]:.2f}x the speed): "
            f"{_why_slower(precision, optimised_operators(path))}"
        )
    return tuple(notes)


def _why_slower(precision: str, kernels: Mapping[str, int]) -> str:
    conversions = sum(kernels.get(name, 0) for name in _CONVERSIONS)
    reasons = []
    if conversions:
        reasons.append(
            f"{conversions} of its {sum(kernels.values())} kernels only convert between number "
            "formats"
        )
    if precision == "fp16":
        reasons.append("the CPU provider computes most of its operators in fp32")
    else:
        flags = cpu_flags()
        if flags and not any("vnni" in flag or flag == "asimddp" for flag in flags):
            reasons.append("this processor has no instructions for dot products of 8-bit numbers")
        reasons.append("fp32 convolutions use a blocked layout that int8 ones lack")
    return "; ".join(reasons)


def cpu_flags() -> frozenset[str]:
    """Instruction sets that Linux reports; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def optimised_operators(path: Path) -> dict[str, int]:
    """Operators of the graph that onnxruntime's CPU provider really runs, with their number."""
    with tempfile.TemporaryDirectory(prefix="gemkit-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(path, optimised=optimised)
        model = onnx.load(optimised)
    return Counter(node.op_type for node in model.graph.node)
