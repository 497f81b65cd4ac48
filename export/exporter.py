"""From a PyTorch network to a checked ONNX file.

The graph of a searched network is `gemkit.export.onnx_builder`'s, that of any other is written by
PyTorch's own exporter. What is checked is the written file, opened afresh with onnxruntime; it
takes its place only when all checks hold.
Ours, like everything about deployment.

    exported = export_onnx(network, path, input_shape=(3, 32, 32), class_names=names, mean=mean,
                           std=std, images=x_test)
    read_info(path)              # what the file says about itself
    accuracy_of(path, x_test, y_test)

Without preprocessing in the graph the input `image` is float32 (batch, c, h, w), pixels scaled to
0..1, less `mean`, divided by `std`; with it, it is uint8 (batch, h, w, c), the pixels themselves.
The output is `logits` or, with softmax in the graph, `probabilities`.
"""

import contextlib
import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from gemkit import __version__
from gemkit.architecture import Architecture
from gemkit.budget import is_number
from gemkit.cost import cost
from gemkit.errors import UserError
from gemkit.files import replacing

from .figures import Figures, count, describe
from .onnx_builder import DEFAULT_OPSET, OPSETS, build_onnx, folded_weights, scale_and_shift
from .onnx_file import load_onnx
from .timing import open_session

if TYPE_CHECKING:
    from torch import nn

    from gemkit.network import GEMNet

Images = NDArray[np.uint8]

PARITY = 1e-4
"""Largest difference from PyTorch's output that a delivered fp32 file may have."""
BATCHES = (1, 3, 17)
"""Batch sizes at which a file with dynamic batch is compared."""
_AMPLIFIED = (
    "The network amplifies rounding, as after training on images that hardly differ: look at its "
    "data with `gemkit data` and train it again"
)
_COMPARED = 1000
"""Test images whose class is compared with PyTorch's where its accuracy is known already."""
_PREFIX = "gemkit."


@dataclass(frozen=True)
class ModelInfo:
    """What an ONNX file of gemkit's says about itself.

    Attributes:
        input_shape: channels, height, width.
        class_names: in the order of the outputs.
        mean, std: of the training images per channel, of pixels scaled to 0..1.
        preprocessing: whether the graph itself takes uint8 (batch, h, w, c) and normalises.
        softmax: whether the outputs are probabilities.
        precision: fp32, fp16 or int8.
        more: everything else: `id`, `macs`, `params`, `peak_memory_bytes`, `accuracy`, `budget`,
            `architecture`, `data`, `version` where they are known.
    """

    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: bool
    softmax: bool
    precision: str
    more: dict[str, Any]

    def normalise(self, images: Images) -> NDArray[np.generic]:
        """Images uint8 (n, h, w, c) as the file's input wants them."""
        if self.preprocessing:
            return images
        return _normalised(images, self.mean, self.std)

    def to_metadata(self) -> dict[str, str]:
        """Keys and JSON values as they stand in the file."""
        values = {
            "input_shape": list(self.input_shape),
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "preprocessing": self.preprocessing,
            "softmax": self.softmax,
            "precision": self.precision,
            **self.more,
        }
        return {_PREFIX + name: json.dumps(value) for name, value in values.items()}


@dataclass(frozen=True)
class Exported:
    """A delivered file and what its checks found.

    Attributes:
        path: the ONNX file.
        parity_max_abs: largest difference from PyTorch over all inputs compared.
        accuracy: of the file, on the test images, where they were given.
        figures: what the file costs. Folding turns the two parameters that batch norm has per
            channel into one bias, so its weights are fewer than the network's params.
        file_bytes, sha256: of the file.
        opset: version of the operator set.
        batch: the fixed batch, or None where it is dynamic.
    """

    path: Path
    parity_max_abs: float
    accuracy: float | None
    figures: Figures
    file_bytes: int
    sha256: str
    opset: int
    batch: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "onnx": str(self.path),
            "parity_max_abs": self.parity_max_abs,
            "accuracy": self.accuracy,
            **self.figures.to_json(),
            "file_bytes": self.file_bytes,
            "sha256": self.sha256,
            "opset": self.opset,
            "batch": self.batch,
        }


def export_onnx(
    network: "nn.Module",
    path: Path | str,
    *,
    input_shape: tuple[int, int, int],
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    images: Images | None = None,
    test: tuple[Images, NDArray[np.int64]] | None = None,
    known_accuracy: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: bool = False,
    softmax: bool = False,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
) -> Exported:
    """Write a network as a checked ONNX file.

    The network may be GEMNet or any module from (batch, c, h, w) to (batch, classes); it is
    copied, so that neither its mode nor its weights change. Compared with PyTorch: random inputs
    and `images`, at each of BATCHES (or at the fixed `batch`), and on `test` the predicted class
    of every image; where PyTorch's accuracy on `test` is known, of a thousand, and the accuracy.

    Args:
        images: real images, uint8 (n, h, w, c), for the comparison; 17 are enough.
        test: images and labels to take the file's accuracy on.
        known_accuracy: of the network in PyTorch on `test`, which spares most of its work there.
        metadata: what else the file shall say about itself (JSON values). The cost and the
            architecture of a GEMNet are added here.
        preprocessing: take uint8 (batch, h, w, c) and normalise inside the graph.
        softmax: deliver probabilities.
        batch: a fixed batch size, for compilers that need one.
        opset: one of OPSETS.
        seed: of the random inputs.

    Raises:
        UserError: the network's weights or the options are unusable, the folder cannot be
            written, or the file computes something else than the network; nothing was written.
        RuntimeError: the file is not what was meant to be written, a fault of gemkit's.
    """
    import torch

    check_options(batch, opset)
    path = Path(path)
    original = copy.deepcopy(network).cpu().float().eval()
    for name, tensor in [*original.named_parameters(), *original.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"the network's weights are no numbers ({name}): train it again")
    info = ModelInfo(
        (input_shape[0], input_shape[1], input_shape[2]),
        tuple(class_names),
        tuple(map(float, mean)),
        tuple(map(float, std)),
        preprocessing,
        softmax,
        "fp32",
        _about(network) | dict(metadata or {}),
    )
    reference = _with_ends(original, info)
    with replacing(path) as temporary:
        with quiet():
            model = _to_onnx(original, info, batch, opset)
            _describe(model, info)
            temporary.write_bytes(model.SerializeToString())
            check_file(temporary)
            own = count(model)
            _check_weights(model, original, own.weights)
            describe(model, own)
            temporary.write_bytes(model.SerializeToString())
            session = open_session(temporary, threads=0)
            parity = _compare(reference, session, info, images, batch, seed)
            accuracy = None
            if test is not None:
                compared = None if known_accuracy is None else _COMPARED
                accuracy = _accuracy(reference, session, info, *test, batch or 250, compared)
                _check_accuracy(accuracy, known_accuracy, len(test[1]))
                describe(model, own, accuracy=accuracy)
                temporary.write_bytes(model.SerializeToString())
        content = temporary.read_bytes()
    return Exported(
        path,
        parity,
        accuracy,
        own,
        len(content),
        hashlib.sha256(content).hexdigest(),
        opset,
        batch,
    )


def check_options(batch: int | None, opset: int) -> None:
    """Make sure that a file can have a fixed batch and an opset.

    Raises:
        UserError: it cannot.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is not supported: use {OPSETS[0]} to {OPSETS[-1]}")
    if batch is not None and batch < 1:
        raise UserError(f"batch {batch} is not possible: use 1 or more, or leave it out")


def read_info(path: Path | str) -> ModelInfo:
    """What a file of gemkit's says about itself.

    Raises:
        UserError: the file is missing, no ONNX, or not written by gemkit.
    """
    return info_of(load_onnx(path), str(path))


def info_of(model: onnx.ModelProto, where: str) -> ModelInfo:
    """What a loaded model says about itself; see `read_info`."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key.startswith(_PREFIX):
            try:
                found[entry.key.removeprefix(_PREFIX)] = json.loads(entry.value)
            except (ValueError, RecursionError):
                raise UserError(f"{where}: metadata {entry.key!r} is damaged") from None
    for name, fits in _METADATA.items():
        if name in found and not fits(found[name]):
            raise UserError(f"{where}: metadata {_PREFIX + name!r} is damaged")
    try:
        info = ModelInfo(
            tuple(found.pop("input_shape")),
            tuple(found.pop("class_names")),
            tuple(found.pop("mean")),
            tuple(found.pop("std")),
            found.pop("preprocessing"),
            found.pop("softmax"),
            found.pop("precision"),
            found,
        )
    except KeyError:
        raise UserError(
            f"{where} was not written by gemkit: it names neither its classes nor its input"
        ) from None
    if not len(info.mean) == len(info.std) == info.input_shape[0]:
        raise UserError(f"{where}: its metadata name other channels in mean, std and input_shape")
    return info


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**16


def _finite(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e6


_METADATA: dict[str, Callable[[Any], bool]] = {
    "input_shape": lambda v: isinstance(v, list) and len(v) == 3 and all(map(_whole, v)),
    "class_names": lambda v: (
        isinstance(v, list) and bool(v) and all(isinstance(name, str) for name in v)
    ),
    "mean": lambda v: isinstance(v, list) and all(map(_finite, v)),
    "std": lambda v: isinstance(v, list) and all(_finite(one) and one > 0 for one in v),
    "preprocessing": lambda v: isinstance(v, bool),
    "softmax": lambda v: isinstance(v, bool),
    "precision": lambda v: isinstance(v, str),
}
"""What the values that others rely on must be."""


def run(session: ort.InferenceSession, inputs: NDArray[Any]) -> NDArray[Any]:
    """The first output for one input."""
    name = session.get_inputs()[0].name
    outputs: NDArray[Any] = session.run(None, {name: inputs})[0]
    return outputs


def fixed_batch(session: ort.InferenceSession) -> int | None:
    """The batch that a file's input is fixed to, or None."""
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None


def run_batched(
    session: ort.InferenceSession, inputs: NDArray[Any], batch: int = 250
) -> NDArray[Any]:
    """The first output for any number of inputs, whatever the file's batch is."""
    fixed = fixed_batch(session)
    batch = fixed or batch
    found = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        missing = batch - len(part) if fixed else 0
        if missing:
            part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
        found.append(run(session, part)[: batch - missing])
    return np.concatenate(found)


def accuracy_of(model: Path | str, images: Images, labels: NDArray[np.int64]) -> float:
    """Share of images that a file of gemkit's classifies right."""
    info = read_info(model)
    outputs = run_batched(open_session(model, threads=0), info.normalise(images))
    return float((outputs.argmax(axis=1) == labels).mean())


def allowed_difference(wanted: NDArray[Any]) -> float:
    """PARITY; where outputs exceed 100, which fp32 does not carry as exactly, 1e-6 of them."""
    return max(PARITY, 1e-6 * float(np.abs(wanted).max(initial=0)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of the exporting libraries away from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _about(network: "nn.Module") -> dict[str, Any]:
    """What the network itself says about its origin."""
    about: dict[str, Any] = {"version": __version__}
    architecture = getattr(network, "architecture", None)
    if isinstance(architecture, Architecture):
        spent = cost(architecture)
        about |= {
            "id": architecture.id,
            "macs": spent.macs,
            "params": spent.params,
            "peak_memory_bytes": spent.peak_memory_bytes,
            "architecture": architecture.to_json(),
        }
    return about


def _normalised(images: Images, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    scale, shift = scale_and_shift(mean, std)
    return np.ascontiguousarray((images * scale + shift).transpose(0, 3, 1, 2))


def _with_ends(network: "nn.Module", info: ModelInfo) -> "nn.Module":
    """The network with preprocessing before and softmax behind it, as asked for."""
    if not (info.preprocessing or info.softmax):
        return network
    import torch
    from torch import Tensor, nn

    class WithEnds(nn.Module):
        scale: Tensor
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            for name, values in zip(
                ("scale", "shift"), scale_and_shift(info.mean, info.std), strict=True
            ):
                self.register_buffer(name, torch.from_numpy(values)[:, None, None])

        def forward(self, x: Tensor) -> Tensor:
            if info.preprocessing:
                x = x.permute(0, 3, 1, 2).float() * self.scale + self.shift
            x = self.network(x)
            return x.softmax(1) if info.softmax else x

    return WithEnds().eval()


def _example(info: ModelInfo, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random inputs as the file takes them."""
    channels, height, width = info.input_shape
    if info.preprocessing:
        return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return rng.standard_normal((count, channels, height, width), dtype=np.float32)


def _to_onnx(
    network: "nn.Module", info: ModelInfo, batch: int | None, opset: int
) -> onnx.ModelProto:
    if isinstance(architecture := getattr(network, "architecture", None), Architecture):
        return build_onnx(
            architecture,
            folded_weights(cast("GEMNet", network)),
            normalise=(info.mean, info.std) if info.preprocessing else None,
            softmax=info.softmax,
            batch=batch,
            opset=opset,
        )
    import torch

    from .pytorch_exporter import export_module

    example = torch.from_numpy(_example(info, batch or 2, np.random.default_rng(0)))
    output = "probabilities" if info.softmax else "logits"
    return export_module(_with_ends(network, info), example, output, batch=batch, opset=opset)


def _describe(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Replace what the exporter says (traces with paths of this machine) by the metadata."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
    graph.name = "network"
    model.producer_version = str(info.more.get("version", ""))
    set_info(model, info)


def set_info(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Make this what a model says about itself."""
    model.producer_name = "gemkit"
    del model.metadata_props[:]
    for key, value in info.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _check_weights(model: onnx.ModelProto, network: "nn.Module", found: int) -> None:
    """The file must hold exactly the network's weights, batch norm folded."""
    from torch import nn

    operators = [node.op_type for node in model.graph.node]
    if "BatchNormalization" in operators:
        return  # a foreign network with a batch norm that follows no convolution
    plain = sum(p.numel() for p in network.parameters())
    # One bias per channel stands for batch norm's two parameters.
    norms = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = plain - sum(norms)
    if hasattr(network, "architecture") and found != expected:
        raise RuntimeError(f"the ONNX graph holds {found} weights, the network has {expected}")


def check_file(path: Path) -> None:
    """Have onnx check a file that was just written.

    Raises:
        RuntimeError: it refuses the file, a fault of gemkit's.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RuntimeError(f"onnx's checker refuses the written file: {error}") from error


def _compare(
    reference: "nn.Module",
    session: ort.InferenceSession,
    info: ModelInfo,
    images: Images | None,
    batch: int | None,
    seed: int,
) -> float:
    """Largest difference over random and real inputs at several batches."""
    import torch

    rng = np.random.default_rng(seed)
    worst = 0.0
    for size in (batch,) if batch else BATCHES:
        inputs = [_example(info, size, rng)]
        if images is not None and len(images):
            chosen = images[np.resize(rng.permutation(len(images)), size)]
            inputs.append(info.normalise(chosen))
        for values in inputs:
            with torch.no_grad():
                wanted = reference(torch.from_numpy(values)).numpy()
            difference = _difference(wanted, run(session, values))
            worst = max(worst, difference)
            allowed = allowed_difference(wanted)
            if not difference <= allowed:
                raise UserError(
                    f"the exported file differs from PyTorch by {difference:.2g} at batch {size} "
                    f"(at most {allowed:.2g} is allowed); nothing was written. {_AMPLIFIED}"
                )
    return worst


def _difference(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    if wanted.shape != found.shape:
        raise RuntimeError(
            f"the exported file's output has shape {found.shape} instead of {wanted.shape}"
        )
    return float(np.abs(wanted.astype(np.float64) - found).max(initial=0))


def _accuracy(
    reference: "nn.Module",
    session: ort.InferenceSession,
    info: ModelInfo,
    images: Images,
    labels: NDArray[np.int64],
    batch: int,
    compared: int | None = None,
) -> float:
    """The file's accuracy; every class it predicts must be PyTorch's, ties apart.

    Args:
        compared: how many images, spread over all, are compared; None for all.
    """
    import torch

    right = 0
    starts = range(0, len(images), batch)
    every = 1 if compared is None else max(1, round(len(images) / compared))
    for number, start in enumerate(starts):
        values = info.normalise(images[start : start + batch])
        found = run_batched(session, values, batch)
        right += int((found.argmax(axis=1) == labels[start : start + batch]).sum())
        if number % every:
            continue
        with torch.no_grad():
            wanted = reference(torch.from_numpy(values)).numpy()
        rows = np.arange(len(wanted))
        chosen = found.argmax(axis=1)
        if (wanted.max(axis=1) - wanted[rows, chosen] > 2 * allowed_difference(wanted)).any():
            raise UserError(
                f"the exported file predicts other classes than PyTorch; nothing was written. "
                f"{_AMPLIFIED}"
            )
    return right / len(images)


def _check_accuracy(accuracy: float, known: float | None, images: int) -> None:
    """Ties may fall differently, since sums are not made in the same order: two images, or one in
    a thousand."""
    if known is not None and abs(accuracy - known) * images > max(2.0, images / 1000) + 0.5:
        raise UserError(
            f"the exported file is right for {accuracy:.2%} of the test images, the network in "
            f"PyTorch was for {known:.2%}; nothing was written. {_AMPLIFIED}"
        )
