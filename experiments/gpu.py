"""How fast a GPU trains: the first steps, trainings side by side, trials a minute, one training.

    python experiments/gpu.py [--out results/gpu.json] [--parts first,beside,trials,speed]

Needs a CUDA GPU; each part takes a minute or two and is written as it ends.

- `first`: seconds that short trainings of new networks take in a cold process and in a warm one,
  with 1x1 convolutions as matrix products (as `gemkit.network` computes them) and by cuDNN.
- `beside`: images a second of several trainings in threads, each on a stream of its own.
- `trials`: trials a minute of a search: random cells of 1 to 30 nodes at 5 M MACs, 3,750 images,
  3 epochs, by the number that run side by side.
- `speed`: three networks of about 40 M MACs at 32x32 (gemnet-base, the first random cell of thirty
  nodes, MobileNetV3-small), trained with the full recipe on 50,000 random images: as plain steps,
  and recorded (as `train` does), at several batch sizes. A rate is that of the last `--seconds` of
  a training, after the first ones were left out.

The limit by memory: a step reads and writes at least three times what its convolutions read and
write (forward, gradient of the input, gradient of the weights), in bfloat16, at the bandwidth of a
large copy on the same GPU. Norms and ReLUs are thought of as computed on the way.
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from long_trainings import widest
from torch import Tensor, nn

from gemkit import network as networks_module
from gemkit import train as training
from gemkit.app import zoo
from gemkit.app.steps.compare_entrants import random_network
from gemkit.architecture import Architecture, skeleton_for
from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.cell import CellArrays
from gemkit.cost import count_with_fvcore, largest_widths
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.network import build
from gemkit.recipe import RECIPES
from gemkit.search.sampling import random_cells
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.skeletons import skeletons_for
from gemkit.train import Progress, train
from gemkit.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "gpu.json"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the latter to try this script
SHAPE, CLASSES, MAX_MACS, MAX_PARAMS = (3, 32, 32), 10, 40_000_000, 800_000
BATCHES = (128, 512)
_KINDS = (
    ("optimiser and averages", r"multi_tensor|foreach|fused_sgd|FusedSgd"),
    ("depthwise convolution", r"depthwise|conv_dw|dw_conv|group"),
    ("convolution and matrix product", r"conv|gemm|cutlass|xmma|wgrad|dgrad|fprop|nvjet|sm90_"),
    ("batch norm", r"batch_norm|batchnorm|bn_fw|bn_bw|bn_"),
    ("concatenation", r"CatArray|cat_"),
    ("pooling", r"pool"),
    ("compiled (fused)", r"triton"),
    ("element by element", r"elementwise|threshold|relu|copy|fill|reduce|softmax|nll"),
)


@dataclass(frozen=True)
class Steps:
    """A way to carry out the steps of a training.

    Attributes:
        record: as a CUDA graph.
        compile: by `torch.compile`, which takes minutes.
        product: 1x1 convolutions are matrix products.
    """

    record: bool = True
    compile: bool = False
    product: bool = True


STEPS = {
    "recorded (as train does)": Steps(),
    "plain": Steps(record=False),
    "recorded, 1x1 by cuDNN": Steps(product=False),
}


class Enough(Exception):
    """The rate is known."""


def base(trained: Path | None) -> Architecture:
    """The network of zoo.py's `trained.json`, else gemnet-base, else gemnet-small's cell wider."""
    if trained is not None:
        return Architecture.from_json(read_json(trained)["architecture"], str(trained))
    cards = {card.name: card for card in zoo.cards()}
    if "gemnet-base" in cards:
        return cards["gemnet-base"].network
    small = cards["gemnet-small"].network
    limit = Budget(macs=MAX_MACS, params=MAX_PARAMS)
    (width,) = largest_widths(CellArrays.from_cells(small.cells), small.skeleton, limit)
    return replace(small, width=int(width))


def networks(trained: Path | None) -> dict[str, Callable[[], nn.Module]]:
    """Makers of the networks, by name."""
    random = random_network(skeleton_for(SHAPE, CLASSES), Budget(macs=MAX_MACS), 0)
    found = base(trained)
    return {
        "thirty random nodes": lambda: build(random),
        "mobilenet_v3_small": lambda: baseline(
            "mobilenet_v3_small", SHAPE, CLASSES, max_macs=MAX_MACS
        ),
        "gemnet-base": lambda: build(found),
    }


def bandwidth() -> float:
    """Bytes read and written a second by a large copy on the GPU."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    spent = []
    for _ in range(20):
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        spent.append(begin.elapsed_time(end) / 1000)
    return 2 * source.nbytes / float(np.median(spent))


def bytes_per_image(network: nn.Module) -> int:
    """The least that a training step moves for an image, see above."""
    moved = [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        moved[0] += inputs[0].numel() + output.numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, *SHAPE))
    for hook in hooks:
        hook.remove()
    return 3 * 2 * moved[0]


@contextmanager
def carried_out(steps: Steps) -> Iterator[None]:
    """Let `train` work in another way than its own for a while."""
    before = training._STEPS_BEFORE_RECORDING, networks_module._Pointwise.forward
    if not steps.record:
        training._STEPS_BEFORE_RECORDING = 10**9
    if not steps.product:
        networks_module._Pointwise.forward = nn.Conv2d.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        training._STEPS_BEFORE_RECORDING, networks_module._Pointwise.forward = before


def on_random_images(
    network: nn.Module, x: np.ndarray, y: np.ndarray, batch: int, epochs: int, **more: Any
) -> None:
    """Train by the full recipe; `more` is for `train`."""
    train(
        network,
        x,
        y,
        x[:1],
        y[:1],
        recipe=replace(RECIPES["full"], batch_size=batch, epochs=epochs),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        seed=0,
        device=DEVICE,
        **more,
    )


# ------------------------------------------------------------------------------ side by side


def pair(number: int, nodes: int | None = None, macs: int = 5_000_000) -> Architecture:
    """A random cell of so many nodes in one of the skeletons, as wide as the MACs allow."""
    rng = np.random.default_rng([7, number])
    nodes = nodes or int(rng.integers(1, 31))
    cell = random_cells(rng, 1, nodes, smallest=nodes).cell(0)
    cell = replace(cell, aggregation=("concat", "sum")[number % 2])
    skeletons = skeletons_for(SHAPE, CLASSES)
    skeleton = skeletons[number % len(skeletons)]
    return widest(cell, skeleton, macs)


def short(architecture: Architecture, images: int, batch: int = 128) -> float:
    """Seconds that a short training on random images takes."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, CLASSES, images)
    network = build(architecture)
    began = time.perf_counter()
    on_random_images(network, x, y, batch, 1)
    return time.perf_counter() - began


def first_steps(count: int) -> dict[str, Any]:
    """Seconds of the first steps of new networks of thirty nodes, and where the last one's went."""

    def begun(number: int) -> float:
        return short(pair(number, nodes=30), count * 128)

    rows = []
    for way in ("recorded (as train does)", "recorded, 1x1 by cuDNN"):
        for number in (0, 1, 2, 2):
            with carried_out(STEPS[way]):
                rows.append({"steps": way, "network": number, "seconds": round(begun(number), 2)})
            print(f"  first: {rows[-1]}", flush=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        begun(3)
    events = sorted(profiler.key_averages(), key=lambda one: -one.self_cpu_time_total)
    spent = {one.key[:60]: round(one.self_cpu_time_total / 1e6, 3) for one in events[:10]}
    print(f"  processor seconds: {spent}", flush=True)
    return {"rows": rows, "processor_seconds": spent}


def side_by_side(counts: Sequence[int], images: int) -> list[dict[str, Any]]:
    """Images a second of some trainings of equal length, beginning and end included."""
    rows = []
    for kind, nodes in (("5 nodes", 5), ("30 nodes", 30)):
        for count in counts:
            makers = [pair(number, nodes) for number in range(count)]
            for one in makers if count == max(counts) else makers[:1]:
                short(one, 3 * 128)  # plans
            began = time.perf_counter()
            with ThreadPoolExecutor(count) as threads:
                list(threads.map(lambda one: short(one, images), makers))
            rate = count * images / (time.perf_counter() - began)
            rows.append({"cells": kind, "beside": count, "images_per_second": round(rate)})
            print(f"  beside: {rows[-1]}", flush=True)
    return rows


def trials(counts: Sequence[int], each: int) -> list[dict[str, Any]]:
    """Trials a minute of random pairs, new ones each time."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        x = rng.integers(0, 256, (50_000 if each > 2 else 1000, 32, 32, 3), dtype=np.uint8)
        np.savez(path, x_train=x, y_train=rng.integers(0, 10, len(x)), x_test=x[:100],
                 y_test=np.arange(100) % 10)  # fmt: skip
        task = ProxyTask(f"npz:{path}", RECIPES["proxy"], device=DEVICE)
        rows, at = [], 100
        for count in counts:
            pairs = [pair(at + number) for number in range(each)]
            at += each
            began = time.perf_counter()
            with Workers.threads(count) as workers:
                left, failed = list(pairs), 0
                while left or workers.running:
                    while left and workers.idle:
                        one = left.pop()
                        workers.submit(len(left), run_trial, task, one, 0, task.recipe.epochs)
                    ended = workers.next()
                    failed += ended is not None and ended.value.error is not None
            minutes = (time.perf_counter() - began) / 60
            rows.append({"beside": count, "trials": each, "failed": failed,
                         "per_minute": round(each / minutes, 1)})  # fmt: skip
            print(f"  trials: {rows[-1]}", flush=True)
    return rows


# ------------------------------------------------------------------------------ one training


def images_per_second(
    network: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    batch: int,
    seconds: float,
    steps: Steps,
    profile: bool = False,
) -> tuple[float, float, Any]:
    """The rate, the seconds until the first steps were done, and a profile of the same steps."""
    marks: list[tuple[float, int]] = []
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    began = time.perf_counter()

    def follow(now: Progress) -> None:
        # Called after the GPU was waited for.
        marks.append((time.perf_counter(), now.step))
        if profile and len(marks) == 2:
            profiler.start()
        if len(marks) > 2 and marks[-1][0] - marks[1][0] > seconds:
            raise Enough

    with carried_out(steps), suppress(Enough):
        on_random_images(network, x, y, batch, 1000, compile=steps.compile, progress=follow)
    if profile:
        profiler.stop()
    (start, first), (end, last) = marks[1], marks[-1]
    return (last - first) * batch / (end - start), marks[0][0] - began, profiler


def shares(profiler: Any) -> dict[str, Any]:
    """What part of the GPU's time each kind of kernel takes, and the longest by name."""
    spent: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in profiler.key_averages():
        own = event.self_device_time_total
        kind = next((kind for kind, text in _KINDS if re.search(text, event.key)), "other")
        spent[kind] += own
        names[event.key[:100]] += own
    whole = sum(spent.values()) or 1
    return {
        "shares": {kind: round(own / whole, 4) for kind, own in spent.most_common()},
        "longest": {name: round(own / whole, 4) for name, own in names.most_common(12)},
    }


def main() -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--parts", default="first,beside,trials,speed")
    parser.add_argument("--small", action="store_true", help="try the script, on any machine")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--trained", type=Path, help="a trained.json of zoo.py for gemnet-base")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    given = parser.parse_args()
    if DEVICE == "cpu" and not given.small:
        print("skipped: there is no CUDA GPU")
        return 0
    found: dict[str, Any] = read_json(given.out) if given.out.is_file() else {}
    if found.get("machine", describe_machine()) != describe_machine():
        print(f"{given.out} was measured on another machine: name another --out")
        return 2
    found |= {"machine": describe_machine(), "versions": versions()}
    for part in given.parts.split(","):
        began = time.perf_counter()
        if part == "first":
            found["first"] = first_steps(2 if given.small else 20)
        elif part == "beside":
            counts, images = ((1, 2), 256) if given.small else ((1, 8, 24), 128 * 60)
            found["beside"] = side_by_side(counts, images)
        elif part == "trials":
            found["trials"] = trials(*(((2,), 2) if given.small else ((8, 16), 24)))
        else:
            speed(found, given.trained, given.batches, given.seconds)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        write_json(given.out, found)
    return 0


def speed(
    found: dict[str, Any], trained: Path | None, batches: Sequence[int], seconds: float
) -> None:
    """Add the rates of single trainings and where their time goes."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, CLASSES, 50_000)
    found["bytes_per_second"] = bandwidth()
    print(f"copies {found['bytes_per_second'] / 1e12:.2f} TB/s")
    found["networks"] = {}
    for name, make in networks(trained).items():
        macs, params = count_with_fvcore(make(), SHAPE)
        limit = found["bytes_per_second"] / bytes_per_image(make())
        entry: dict[str, Any] = {"macs": macs, "params": params, "limit": limit, "rows": []}
        found["networks"][name] = entry
        print(f"{name}: {macs / 1e6:.1f} M MACs; memory allows {limit:,.0f} images/s")
        for way, steps in STEPS.items():
            for batch in batches if steps == Steps() else batches[-1:]:
                rate, before, _ = images_per_second(make(), x, y, batch, seconds, steps)
                entry["rows"].append(
                    {"steps": way, "batch": batch, "images_per_second": rate, "before": before}
                )
                print(
                    f"  {way}, batch {batch}: {rate:,.0f} images/s, {rate / limit:.0%} of it; "
                    f"first steps after {before:.1f} s",
                    flush=True,
                )
        _, _, profiler = images_per_second(make(), x, y, 512, 1.0, Steps(), profile=True)
        entry["profile"] = shares(profiler)
        print("  " + ", ".join(f"{k} {v:.0%}" for k, v in entry["profile"]["shares"].items()))


if __name__ == "__main__":
    sys.exit(main())
