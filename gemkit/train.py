"""Training: one loop for the short trials of the search and for the final networks.

    trained = train(network, x, y, x_test, y_test, recipe=RECIPES["standard"],
                    mean=dataset.mean, std=dataset.std, seed=0)

Under `torchrun` (any number of processes on the group's devices) each process takes its share of
every batch and all end with the same weights.

SGD with Nesterov momentum, a learning rate that warms up and then falls as a cosine, decoupled
weight decay on weights but not on biases and norms (Loshchilov & Hutter 2019), label smoothing,
and an exponential moving average of the weights, which is what the network holds at the end.
`gemkit.recipe` says how and `gemkit.batches` makes the batches. Networks run channels-last
everywhere and with bfloat16 on CUDA.

Every random number of an epoch follows from the seed and the epoch's number, so a training that
was killed continues from its checkpoint to the same weights (on the CPU, with equal threads).

On one GPU a step is recorded once, as a CUDA graph, and replayed, since a network of thirty nodes
launches thousands of kernels a step, which takes the processor longer than the GPU needs to run
them. Even then a small network leaves most of the GPU idle, so several trainings may run side by
side in threads of one process, each on a stream of its own.
"""

import hashlib
import importlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gemkit.batches import Batches, Normalisation, TaughtBatches
from gemkit.errors import UserError
from gemkit.files import check_format, read_json, write_bytes, write_json
from gemkit.recipe import Recipe
from gemkit.views import Lessons

logger = logging.getLogger("gemkit")

STATE_FORMAT = 1
"""Of the state of a training that was interrupted."""
_EVALUATION_BATCH = 256
_CHANNELS_OF_AVX2 = 8  # float32 in a register
_CHECKED_EVERY = 16  # steps; looking at the loss makes a GPU wait
_EVALUATION_BATCH_ON_GPU = 2048
_STEPS_BEFORE_RECORDING = 2  # in which cuDNN and cuBLAS set themselves up
_PREPARER = ThreadPoolExecutor(1, "gemkit-gpu")
"""The thread that runs on a GPU what is not replayed: cuDNN's plans belong to the thread that made
them, and making them for all shapes of a network takes seconds."""
Result = TypeVar("Result")
_GENERATOR = threading.Lock()
"""Held while PyTorch's own generators are seeded, recorded from or replayed: they are shared."""


class TrainingFailed(Exception):
    """A training that cannot go on, such as one whose loss is no longer finite; says why."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands; what its `progress` callback is given.

    Attributes:
        epoch: the epoch in progress, from 1.
        epochs: how many there are.
        step, steps: the same in steps of the whole training.
        loss: mean over the epoch so far.
        images_per_second: over this call of `train`, evaluation not counted.
        seconds_left: until the last step, at this rate.
        learning_rate: of the last step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        accuracy: share of the evaluation images classified rightly, measured once, at the end.
        curve: one entry an epoch: `epoch`, `loss`, `learning_rate` (at its end), `seconds`.
        images_per_second: training images a second.
        seconds: training time, without evaluation; that before a kill included.
        epochs: passes over the training images.
        outputs: the logits of the evaluation images, (n, classes).
    """

    accuracy: float
    curve: list[dict[str, float]]
    images_per_second: float
    seconds: float
    epochs: int
    outputs: NDArray[np.float32] = field(repr=False, compare=False)


def train(
    network: nn.Module,
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    x_eval: NDArray[np.uint8],
    y_eval: NDArray[np.int64],
    *,
    recipe: Recipe,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    compile: bool = False,
    lessons: Lessons | None = None,
) -> Trained:
    """Train a network in place and evaluate it once, at the end.

    Args:
        network: images (batch, channels, h, w) float -> logits (batch, classes); comes back on
            the CPU, in evaluation mode, with the averaged weights. On one GPU its steps are
            recorded and replayed, so each must do the same and not wait for the GPU.
        x, x_eval: (n, h, w, channels) uint8.
        y, y_eval: (n,) int64.
        mean, std: one value a channel, of images scaled to 0..1.
        seed: of the order of the images and of augmentation. Initial weights are the
            caller's.
        device: `auto` (CUDA if there is any), `cpu`, `cuda` or `cuda:N`.
        progress: called every few steps and at the end of every epoch.
        checkpoint: folder that keeps the state after each epoch. A training that finds its own
            state there goes on from it.
        compile: let `torch.compile` make the step faster; it takes a minute or more at first.
        lessons: views of images with what a teacher sees in them, to learn from instead of `x`
            and `y`; an epoch is a pass over these.

    Raises:
        TrainingFailed: the loss is not finite any more.
        UserError: the network does not suit the data, a checkpoint of another training, or
            memory that does not suffice.
    """
    place = _device(device)
    images = len(x) if lessons is None else len(lessons)
    batch = _batch_size(recipe, images)
    _check_outputs(network, x, y, y_eval)
    layout = memory_format(network, place)
    record = place.type == "cuda" and _ranks()[1] == 1 and not compile
    with _stream_of_its_own(place, record), _seeded(place), _memory_explained(batch):
        network.to(device=place, memory_format=layout)  # type: ignore[call-overload]
        steps = images // batch
        model = _shared(network, compile)
        optimiser = _Optimiser(network, recipe, steps * recipe.epochs)
        curve: list[dict[str, float]] = []
        keeper = None
        if checkpoint is not None:
            about = _fingerprint(network, recipe, seed, x, y, lessons)
            keeper = _Checkpoints(Path(checkpoint), about)
            curve = keeper.load(optimiser)
        training = _Training(
            _Steps(model, optimiser, recipe.label_smoothing, place, record),
            optimiser,
            Batches(x, y, recipe, mean, std, place, layout)
            if lessons is None
            else TaughtBatches(lessons, recipe, mean, std, place, layout),
            recipe,
            place,
            batch,
            steps,
            progress,
        )
        for epoch in range(len(curve) + 1, recipe.epochs + 1):
            with _GENERATOR:  # of dropout; images have their own
                torch.manual_seed(_derived(seed, epoch))
            network.train()
            curve.append(training.epoch(epoch, seed))
            if keeper is not None and is_first():
                keeper.save(optimiser, curve)
        optimiser.finish()
        network.zero_grad(set_to_none=True)
        del training  # and with it the memory that a recorded step holds
        seconds = sum(entry["seconds"] for entry in curve)
        rate = recipe.epochs * steps * batch / max(seconds, 1e-9)
        evaluated = network, x_eval, mean, std, str(place)
        found = _prepared(logits, *evaluated) if record else logits(*evaluated)
    network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if not np.isfinite(found).all():
        raise TrainingFailed("the trained network's outputs are not finite")
    accuracy = float((found.argmax(1) == y_eval).mean())
    return Trained(accuracy, curve, rate, seconds, recipe.epochs, found)


def _batch_size(recipe: Recipe, images: int) -> int:
    """How many images a step takes: the recipe's, or all where there are fewer."""
    batch = min(recipe.batch_size, images)
    if batch < 2:
        raise UserError(f"{images} training images are too few: at least two are needed")
    _, ranks = _ranks()
    if batch % ranks:
        raise UserError(f"a batch of {batch} images cannot be shared evenly by {ranks} processes")
    return batch


def _shared(network: nn.Module, compile: bool) -> nn.Module:
    """The network as the steps call it: one of several processes', compiled, or as it is."""
    model = network
    if _ranks()[1] > 1:
        # The statistics of batch norm are averaged at the end of every epoch instead.
        model = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
    if compile:
        model = torch.compile(model)  # type: ignore[assignment]
    return model


class _Steps:
    """Carries out the steps of a training; on a GPU by replaying a recording.

    Attributes:
        total: sum of the losses since it was last set to 0.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: "_Optimiser",
        label_smoothing: float,
        place: torch.device,
        record: bool,
    ) -> None:
        self._model, self._optimiser = model, optimiser
        self._smoothing, self._place, self._records = label_smoothing, place, record
        self._before = _STEPS_BEFORE_RECORDING
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = self._targets = torch.empty(0)
        self.total = torch.zeros((), device=place)

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        """A step with images (batch, channels, h, w) and their labels or class shares."""
        if not self._records:
            self._computed(images, targets)
        elif self._graph is not None:
            self._replayed(images, targets)
        elif self._before:
            self._before -= 1
            _prepared(self._computed, images, targets)
        else:
            _prepared(self._record, images, targets)
            self._replayed(images, targets)
        self._optimiser.done += 1

    def _computed(self, images: Tensor, targets: Tensor) -> None:
        # Set to None before, not after: a replayed graph writes where the gradients lie.
        self._model.zero_grad(set_to_none=True)
        on_gpu = self._place.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            outputs = self._model(images)
        loss = F.cross_entropy(outputs.float(), targets, label_smoothing=self._smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.total += loss.detach()

    def _record(self, images: Tensor, targets: Tensor) -> None:
        """Record a step, without carrying it out, on tensors that each batch is copied to."""
        self._images, self._targets = images.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        with _GENERATOR:
            # Other threads may go on. (`torch.cuda.graph` would stop the GPU and free its memory.)
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._computed(self._images, self._targets)
            finally:
                graph.capture_end()
        self._graph = graph

    def _replayed(self, images: Tensor, targets: Tensor) -> None:
        assert self._graph is not None
        self._images.copy_(images)
        self._targets.copy_(targets)
        with _GENERATOR:
            self._graph.replay()


def _prepared(work: Callable[..., Result], *given: Any) -> Result:
    """What a function gives when the preparing thread runs it on this thread's stream."""
    stream = torch.cuda.current_stream()

    def run() -> Result:
        with torch.cuda.stream(stream):  # and on its device
            return work(*given)

    return _PREPARER.submit(run).result()


@contextmanager
def _stream_of_its_own(place: torch.device, wanted: bool) -> Iterator[None]:
    """Recording needs a stream that is not the default one."""
    if not wanted:
        yield
        return
    with torch.cuda.device(place):
        before, stream = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            yield
        before.wait_stream(stream)


@dataclass
class _Training:
    """A training under way.

    Attributes:
        take: what carries out a step.
        batch: images a step.
        steps: steps an epoch.
        done: steps since `start`.
    """

    take: _Steps
    optimiser: "_Optimiser"
    batches: Batches
    recipe: Recipe
    place: torch.device
    batch: int
    steps: int
    progress: Callable[[Progress], None] | None
    done: int = 0
    start: float = field(default_factory=time.perf_counter)

    def epoch(self, number: int, seed: int) -> dict[str, float]:
        """One pass over the images; its entry in the curve.

        Raises:
            TrainingFailed: the loss is not finite any more.
        """
        rank, ranks = _ranks()
        began = time.perf_counter()
        self.take.total.zero_()
        seeds = _derived(seed, number), _derived(seed, number, rank)
        mine = self.batches.epoch(self.batch, self.steps, seeds[0], rank, ranks, seeds[1])
        for step, (images, targets) in enumerate(mine, start=1):
            self.take(images, targets)
            self.done += 1
            if step % _CHECKED_EVERY == 0 or step == self.steps:
                mean_loss = _mean_over_ranks(self.take.total.clone()).item() / step
                if not math.isfinite(mean_loss):
                    raise TrainingFailed(
                        f"the loss became {mean_loss} in epoch {number}: "
                        f"the learning rate {self.recipe.learning_rate} may be too high"
                    )
                self._report(number, step, mean_loss)
        entry = {
            "epoch": number,
            "loss": mean_loss,
            "learning_rate": self.optimiser.learning_rate,
            "seconds": time.perf_counter() - began,
        }
        for value in self.optimiser.statistics() if ranks > 1 else ():
            _mean_over_ranks(value)
        return entry

    def _report(self, epoch: int, step: int, loss: float) -> None:
        if self.progress is None:
            return
        rate = self.done * self.batch / max(time.perf_counter() - self.start, 1e-9)
        epochs = self.recipe.epochs
        at, total = (epoch - 1) * self.steps + step, self.steps * epochs
        left = (total - at) * self.batch / rate
        speed = self.optimiser.learning_rate
        self.progress(Progress(epoch, epochs, at, total, loss, rate, left, speed))


def logits(
    network: nn.Module,
    x: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    device: str = "auto",
) -> NDArray[np.float32]:
    """The network's outputs, (n, classes), for images (n, h, w, channels) uint8; in fp32.

    The network is moved to the device and left in evaluation mode.
    """
    place = _device(device)
    layout = memory_format(network, place)
    network.to(device=place, memory_format=layout)  # type: ignore[call-overload]
    network.eval()
    normalise = Normalisation(mean, std, place, layout)
    found = []
    many = _EVALUATION_BATCH_ON_GPU if place.type == "cuda" else _EVALUATION_BATCH
    with torch.inference_mode():
        for start in range(0, len(x), many):
            images = torch.from_numpy(np.array(x[start : start + many])).to(place)
            found.append(network(normalise(images)).float().cpu().numpy())
    return np.concatenate(found)


# ----------------------------------------------------------------------------- processes


@contextmanager
def distributed() -> Iterator[tuple[int, int]]:
    """Join the processes that `torchrun` started; gives this one's rank and their number.

    Without torchrun it gives (0, 1) and does nothing.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # A module that PyTorch imports later keeps the group that there is at its import, and the
    # group's threads, which now and then take the process down at its end (PyTorch 2.14).
    importlib.import_module("torch.distributed.nn")
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield _ranks()
    finally:
        torch.distributed.destroy_process_group()


_ALONE = ContextVar("_ALONE", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Train here without the other processes that `torchrun` started, which take no part."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def is_first() -> bool:
    """Whether this is the process that writes files: the only one, or the first of several."""
    return _ranks()[0] == 0


def communication_device() -> torch.device:
    """Where tensors must lie to be sent to the other processes."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _ranks() -> tuple[int, int]:
    if _ALONE.get() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _mean_over_ranks(value: Tensor) -> Tensor:
    """Replace a tensor by its mean over all processes."""
    _, ranks = _ranks()
    if ranks > 1:
        torch.distributed.all_reduce(value)
        value /= ranks
    return value


# -------------------------------------------------------------------------- device, outputs


def _device(name: str) -> torch.device:
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} is not there: use cpu")
    return device


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, but contiguous on the CPU where that would write past its memory."""
    if device.type == "cpu" and any(_overruns(module) for module in network.modules()):
        return torch.contiguous_format
    return torch.channels_last


def _overruns(module: nn.Module) -> bool:
    """Whether the gradient of a convolution's weight overruns in channels-last layout.

    oneDNN's kernel for processors with AVX2 (jit_1x1:avx2, in PyTorch 2.14) writes past its memory
    for 1x1 convolutions that skip pixels of fewer than 8 channels; docs/limits.md has the program.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _CHANNELS_OF_AVX2
    )


def _check_outputs(network: nn.Module, x: NDArray[np.uint8], *labels: NDArray[np.int64]) -> None:
    """Make sure that the labels have no more classes than the network."""
    weight = next(network.parameters())
    image = torch.zeros(1, x.shape[3], *x.shape[1:3], device=weight.device)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        outputs = network(image)
    network.train(was_training)
    largest = max(int(label.max()) for label in labels)
    if outputs.shape[1] <= largest:
        raise UserError(
            f"the network has {outputs.shape[1]} classes, the labels go up to {largest}"
        )


# ------------------------------------------------------------------------------ optimiser


class _Optimiser:
    """SGD with its schedule, weight decay and averaged weights, as few operations a step.

    Attributes:
        done: steps taken so far.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps: int) -> None:
        self._recipe, self._steps, self.done = recipe, steps, 0
        named = [
            (name, weight) for name, weight in network.named_parameters() if weight.requires_grad
        ]
        self._weights = dict(named)
        self._decayed: list[Tensor] = [weight for _, weight in named if weight.ndim > 1]
        self._sgd = torch.optim.SGD(
            [weight for _, weight in named],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.state = network.state_dict(keep_vars=False)
        floating = [name for name, value in self.state.items() if value.is_floating_point()]
        self._live = [self.state[name] for name in floating]
        self._averaged = {name: self.state[name].clone() for name in floating} if recipe.ema else {}
        self._table, self._at = self._on_gpu(named[0][1].device)

    def _on_gpu(self, place: torch.device) -> tuple[Tensor | None, Tensor]:
        """What `_amounts` gives for every step, and the step: a recorded step finds its own."""
        at = torch.zeros(1, dtype=torch.int64, device=place)
        if place.type != "cuda":
            return None, at
        rows = [self._amounts(step) for step in range(self._steps)]
        return torch.tensor(rows, dtype=torch.float32, device=place), at

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return self._scheduled(max(self.done - 1, 0))

    def _amounts(self, step: int) -> tuple[float, float, float]:
        """Learning rate, share of a weight that stays, and that of its average that is new."""
        rate = self._scheduled(step)
        # A young average forgets faster, or it would keep the initial weights.
        length = max(self._recipe.ema * self._steps, 1e-9)
        share = max(1 - math.exp(-1 / length), 9 / (10 + step))
        return rate, 1 - rate * self._recipe.weight_decay, share

    def step(self) -> None:
        """Take the gradients that lie at the weights; the caller counts the step in `done`."""
        rate: Any
        kept: Any
        share: Any
        if self._table is None:
            rate, kept, share = self._amounts(self.done)
        else:
            rate, kept, share = self._table.index_select(0, self._at)[0].unbind()
            self._at += 1
        for group in self._sgd.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            if self._recipe.weight_decay:
                torch._foreach_mul_(self._decayed, kept)
            self._sgd.step()
            averaged = list(self._averaged.values())
            if not averaged:
                return
            if self._table is None:
                torch._foreach_lerp_(averaged, self._live, share)
            else:  # lerp takes no number that lies on a GPU
                difference = torch._foreach_sub(self._live, averaged)
                torch._foreach_mul_(difference, share)
                torch._foreach_add_(averaged, difference)

    def statistics(self) -> list[Tensor]:
        """What every process computes for itself: batch norm's statistics, and their average."""
        own = [name for name in self.state if name not in self._weights]
        states = (self.state, self._averaged)
        return [
            s[name] for s in states for name in own if name in s and s[name].is_floating_point()
        ]

    def _scheduled(self, step: int) -> float:
        warm = self._recipe.warmup * self._steps
        if step < warm:
            return self._recipe.learning_rate * (step + 1) / (warm + 1)
        fallen = (step - warm) / max(self._steps - warm, 1)
        return self._recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * fallen))

    def finish(self) -> None:
        """Give the network its averaged weights."""
        with torch.no_grad():
            for name, value in self._averaged.items():
                self.state[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs, by name."""
        found = {f"network/{name}": value for name, value in self.state.items()}
        found |= {f"average/{name}": value for name, value in self._averaged.items()}
        for name, weight in self._weights.items():
            buffer = self._sgd.state[weight].get("momentum_buffer")
            if buffer is not None:
                found[f"momentum/{name}"] = buffer
        return found

    def restore(self, tensors: dict[str, Tensor], done: int) -> None:
        """Take back what `tensors` gave."""
        with torch.no_grad():
            for name, value in self.state.items():
                value.copy_(tensors[f"network/{name}"])
            for name, value in self._averaged.items():
                value.copy_(tensors[f"average/{name}"])
            for name, weight in self._weights.items():
                kept = tensors.get(f"momentum/{name}")
                if kept is not None:
                    buffer = torch.empty_like(weight, memory_format=torch.preserve_format)
                    self._sgd.state[weight]["momentum_buffer"] = buffer.copy_(kept)
        self.done = done
        self._at.fill_(done)


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state as it was."""
    on_gpu = device.type == "cuda"
    with _GENERATOR:
        before = torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None
    try:
        yield
    finally:
        with _GENERATOR:
            torch.set_rng_state(before[0])
            if before[1] is not None:
                torch.cuda.set_rng_state(before[1], device)


def _derived(seed: int, *place: int) -> int:
    """A seed for every epoch, and for every process in it."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _memory_explained(batch: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        short = isinstance(error, torch.OutOfMemoryError) or any(
            text in str(error) for text in ("out of memory", "can't allocate memory")
        )
        if short and batch > 2:
            raise UserError(
                f"the memory does not suffice for batches of {batch} images: "
                f"use a batch size of {batch // 2}"
            ) from None
        raise


# ----------------------------------------------------------------------------- checkpoints


def _fingerprint(
    network: nn.Module,
    recipe: Recipe,
    seed: int,
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    lessons: Lessons | None,
) -> dict[str, Any]:
    """What two trainings must share for one to continue the other."""
    shapes = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    shown = hashlib.blake2b(np.ascontiguousarray(y).tobytes(), digest_size=16)
    shown.update(repr(x.shape).encode())
    shown.update(np.ascontiguousarray(x[:: max(1, len(x) // 1000)]).tobytes())
    taught = None
    if lessons is not None:
        taught = hashlib.blake2b(lessons.shares.tobytes(), digest_size=16).hexdigest()
    return {
        "lessons": taught,
        "recipe": recipe.to_json(),
        "seed": seed,
        "network": hashlib.blake2b(json.dumps(shapes).encode(), digest_size=16).hexdigest(),
        "images": shown.hexdigest(),
    }


class _Checkpoints:
    """The states of the last two epochs: `epoch-N.safetensors` and `epoch-N.json` in a folder.

    The JSON is written last and carries the tensors' digest, so a state counts only if it is
    whole.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def save(self, optimiser: _Optimiser, curve: list[dict[str, float]]) -> None:
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in optimiser.tensors().items()
        }
        content = save(tensors)
        epoch = len(curve)
        write_bytes(self._folder / f"epoch-{epoch}.safetensors", content)
        write_json(
            self._folder / f"epoch-{epoch}.json",
            {
                "format": STATE_FORMAT,
                **self._fingerprint,
                "epoch": epoch,
                "steps": optimiser.done,
                "threads": torch.get_num_threads(),
                "digest": hashlib.blake2b(content, digest_size=16).hexdigest(),
                "curve": curve,
            },
        )
        for number in self._numbers()[2:]:
            (self._folder / f"epoch-{number}.json").unlink(missing_ok=True)
            (self._folder / f"epoch-{number}.safetensors").unlink(missing_ok=True)

    def load(self, optimiser: _Optimiser) -> list[dict[str, float]]:
        """Restore the newest whole state; the curve so far, empty if there is none.

        Raises:
            UserError: the state is of another training, or of a newer gemkit.
        """
        for number in self._numbers():
            found = self._read(number)
            if found is None:
                continue
            state, tensors = found
            check_format(state.get("format", 1), STATE_FORMAT, str(self._folder))
            state["recipe"] = Recipe.from_json(state.get("recipe"), str(self._folder)).to_json()
            for name, value in self._fingerprint.items():
                if state.get(name) != value:
                    raise UserError(
                        f"{self._folder} keeps the state of a training with another {name}: "
                        "remove the folder to start anew"
                    )
            optimiser.restore(tensors, state["steps"])
            curve: list[dict[str, float]] = state["curve"]
            return curve
        return []

    def _numbers(self) -> list[int]:
        """Epochs with a state, the newest first."""
        names = [path.name.partition(".")[0] for path in self._folder.glob("epoch-*.*")]
        numbers = {name.removeprefix("epoch-") for name in names}
        return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)

    def _read(self, number: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        path = self._folder / f"epoch-{number}.safetensors"
        try:
            state = read_json(path.with_suffix(".json"))
            content = path.read_bytes()
            if state["digest"] != hashlib.blake2b(content, digest_size=16).hexdigest():
                raise UserError("damaged")
            return state, load(content)
        except (UserError, OSError, SafetensorError, KeyError, TypeError):
            logger.warning("%s is damaged or cut short: the state before it is used", path)
            return None
