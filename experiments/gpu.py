"""How fast a GPU trains: images a second, against what its memory allows, and where the time goes.

    python experiments/gpu.py [--out results/gpu.json] [--seconds 4]

Needs a CUDA GPU; some minutes, most of them until a network's first steps are done. Three networks
of about 40 M MACs at 32x32 (gemnet-base, the first random cell of thirty nodes, MobileNetV3-small)
are trained by `gemkit.train` with the full recipe on 50,000 random images: as plain steps, with the
step recorded (as `train` does), and compiled, at several batch sizes. A rate is that of the last
`--seconds` of a training, after the first ones were left out.

The limit by memory: a step reads and writes at least three times what its convolutions read and
write (forward, gradient of the input, gradient of the weights), in bfloat16, at the bandwidth of a
large copy on the same GPU. Norms and ReLUs are thought of as computed on the way.
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import cudnn

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
from gemkit.train import Progress, train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "gpu.json"
SHAPE, CLASSES, MAX_MACS, MAX_PARAMS = (3, 32, 32), 10, 40_000_000, 800_000
BATCHES = (128, 512, 1024)
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
        compile: by `torch.compile`.
        choose: let cuDNN choose each convolution's algorithm by trial.
        channels_last: the layout of images and weights.
    """

    record: bool = True
    compile: bool = False
    choose: bool = False
    channels_last: bool = True


STEPS = {
    "recorded (as train does)": Steps(),
    "plain": Steps(record=False),
    "recorded, cuDNN chooses": Steps(choose=True),
    "recorded, contiguous": Steps(channels_last=False),
    "compiled": Steps(compile=True),
}


WHOLE = tuple(STEPS)[:2]
"""These are tried for every network at every batch size, the others at the largest for one."""


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
    source = torch.randn(2**28, device="cuda")
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
    before = training._Gradients, training._layout, cudnn.benchmark
    if not steps.record:
        training._Gradients = partial(_unrecorded, before[0])
    if not steps.channels_last:
        training._layout = lambda network, device: torch.contiguous_format
    cudnn.benchmark = steps.choose
    try:
        yield
    finally:
        training._Gradients, training._layout, cudnn.benchmark = before


def _unrecorded(kind: Any, *given: Any, record: bool) -> Any:
    return kind(*given, record=False)


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
        train(
            network,
            x,
            y,
            x[:1],
            y[:1],
            recipe=replace(RECIPES["full"], batch_size=batch, epochs=1000),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            seed=0,
            device="cuda",
            compile=steps.compile,
            progress=follow,
        )
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
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--networks", nargs="+", help="only these; the others' figures are kept")
    parser.add_argument("--trained", type=Path, help="a trained.json of zoo.py for gemnet-base")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no CUDA GPU")
        return 0
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, CLASSES, 50_000)
    found: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": versions(),
        "bytes_per_second": bandwidth(),
        "networks": {},
    }
    print(f"{found['machine']['gpu']}: copies {found['bytes_per_second'] / 1e12:.2f} TB/s")
    if given.networks and given.out.is_file():
        before = read_json(given.out)
        if before["machine"] != found["machine"]:
            print(f"{given.out} was measured on another machine: name another --out")
            return 2
        found["networks"] = before["networks"]
    for name, make in networks(given.trained).items():
        if given.networks and name not in given.networks:
            continue
        macs, params = count_with_fvcore(make(), SHAPE)
        limit = found["bytes_per_second"] / bytes_per_image(make())
        entry: dict[str, Any] = {"macs": macs, "params": params, "limit": limit, "rows": []}
        found["networks"][name] = entry
        print(f"{name}: {macs / 1e6:.1f} M MACs; memory allows {limit:,.0f} images/s")
        for way, steps in STEPS.items():
            if way not in WHOLE and name != "gemnet-base":
                continue  # compiling takes minutes
            for batch in given.batches if way in WHOLE else given.batches[-1:]:
                rate, before, _ = images_per_second(make(), x, y, batch, given.seconds, steps)
                entry["rows"].append(
                    {"steps": way, "batch": batch, "images_per_second": rate, "before": before}
                )
                print(
                    f"  {way}, batch {batch}: {rate:,.0f} images/s, {rate / limit:.0%} of it; "
                    f"first steps after {before:.1f} s",
                    flush=True,
                )
                write_json(given.out, found)
        _, _, profiler = images_per_second(make(), x, y, 512, 1.0, Steps(), profile=True)
        entry["profile"] = shares(profiler)
        print("  " + ", ".join(f"{k} {v:.0%}" for k, v in entry["profile"]["shares"].items()))
        write_json(given.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
