"""Training: against a loop written out by hand, against kills, and on real digits."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemkit.batches import Batches
from gemkit.data import load
from gemkit.errors import UserError
from gemkit.recipe import RECIPES, Recipe
from gemkit.train import (
    Progress,
    Trained,
    TrainingFailed,
    logits,
    memory_format,
    train,
)
from gemkit.views import Lessons

PLAIN = Recipe(epochs=3, batch_size=32, ema=0.0, crop=0.0, flip=False, label_smoothing=0.0)


class Small(nn.Module):
    """A network with a convolution, a batch norm and a classifier."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8 * 16, classes)
        self.seen: list[tuple[bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, len(x)))
        x = F.relu(self.norm(self.convolution(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 4).flatten(1))


class Arrays:
    """Random images with labels that can be learned: the brightest quarter."""

    def __init__(self, seed: int, count: int = 96, channels: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.integers(0, 120, (count, 8, 8, channels), dtype=np.uint8)
        self.y = rng.integers(0, 4, count)
        for image, label in zip(self.x, self.y, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[row : row + 4, column : column + 4] += 100
        self.mean, self.std = (0.3,) * channels, (0.25,) * channels


def fit(network: nn.Module, arrays: Arrays, recipe: Recipe, **options: Any) -> Trained:
    given: dict[str, Any] = {"seed": 5, "device": "cpu"} | options
    return train(
        network,
        arrays.x,
        arrays.y,
        arrays.x[:40],
        arrays.y[:40],
        recipe=recipe,
        mean=arrays.mean,
        std=arrays.std,
        **given,
    )


def new(seed: int, channels: int = 1) -> Small:
    torch.manual_seed(seed)
    return Small(channels)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def scheduled(recipe: Recipe, steps: int) -> list[float]:
    warm = recipe.warmup * steps
    return [
        recipe.learning_rate * (step + 1) / (warm + 1)
        if step < warm
        else recipe.learning_rate * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
        for step in range(steps)
    ]


@pytest.mark.parametrize("average", [0.0, 0.2])
def test_training_is_the_loop_one_would_write(average: float, seed: int) -> None:
    arrays = Arrays(seed)
    recipe = replace(PLAIN, epochs=8, batch_size=96, label_smoothing=0.1, ema=average)
    network, expected = new(seed), new(seed)
    fit(network, arrays, recipe)

    # All images are in each batch, so their order only matters by rounding.
    x = torch.from_numpy(arrays.x).permute(0, 3, 1, 2).float()
    x, y = (x / 255 - 0.3) / 0.25, torch.from_numpy(arrays.y)
    velocity = {name: torch.zeros_like(value) for name, value in expected.named_parameters()}
    averaged = {k: v.clone() for k, v in expected.state_dict().items() if v.is_floating_point()}
    for step, rate in enumerate(scheduled(recipe, 8), start=1):
        loss = F.cross_entropy(expected(x), y, label_smoothing=0.1)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for (name, value), gradient in zip(expected.named_parameters(), gradients, strict=True):
                if value.ndim > 1:
                    value *= 1 - rate * recipe.weight_decay
                velocity[name] = 0.9 * velocity[name] + gradient
                value -= rate * (gradient + 0.9 * velocity[name])
            for name, value in averaged.items():
                share = max(1 - math.exp(-1 / (average * 8)), 9 / (9 + step)) if average else 1
                value += share * (expected.state_dict()[name] - value)
    for name, value in averaged.items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_only_weights_decay(seed: int) -> None:
    network = new(seed)
    network.idle_weight = nn.Parameter(torch.ones(3, 3))
    network.idle_bias = nn.Parameter(torch.ones(3))
    recipe = replace(PLAIN, weight_decay=0.5)
    fit(network, Arrays(seed), recipe)
    kept = math.prod(1 - 0.5 * rate for rate in scheduled(recipe, 9))
    torch.testing.assert_close(network.idle_weight.detach(), torch.full((3, 3), kept))
    assert torch.equal(network.idle_bias.detach(), torch.ones(3))


def test_real_digits_are_learned() -> None:
    digits = load("digits")
    network = new(0)
    result = train(
        network,
        digits.x_train,
        digits.y_train,
        digits.x_test,
        digits.y_test,
        recipe=Recipe(epochs=8),
        mean=digits.mean,
        std=digits.std,
        seed=0,
        device="cpu",
    )
    assert result.accuracy > 0.93
    found = logits(network, digits.x_test, digits.mean, digits.std, "cpu").argmax(1)
    assert result.accuracy == (found == digits.y_test).mean()
    losses = [entry["loss"] for entry in result.curve]
    assert losses[-1] < 0.6 * losses[0]
    assert [entry["epoch"] for entry in result.curve] == list(range(1, 9))
    assert result.epochs == 8
    assert result.images_per_second > 0


def test_the_same_seed_gives_the_same_weights(seed: int) -> None:
    arrays = Arrays(seed, channels=3)
    recipe = replace(RECIPES["full"], epochs=2, batch_size=32)
    networks = []
    for number in (1, 1, 2):
        networks.append(new(seed, 3))
        fit(networks[-1], arrays, recipe, seed=number)
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_the_callers_random_numbers_are_left_alone(seed: int) -> None:
    network = new(seed)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    fit(network, Arrays(seed), PLAIN)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_happens_once_at_the_end(seed: int) -> None:
    network = new(seed)
    result = fit(network, Arrays(seed), PLAIN)
    modes = [training for training, _ in network.seen]
    assert modes == [False] + [True] * 9 + [False]  # the first looks at the number of classes
    assert [count for training, count in network.seen if not training] == [1, 40]
    assert result.accuracy > 0.25
    assert not network.training


def test_outputs_are_those_of_the_network(seed: int) -> None:
    arrays, network = Arrays(seed, 300), new(seed).eval()
    x = torch.from_numpy(arrays.x).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        expected = network(((x - 0.3) / 0.25).float())
    found = logits(network, arrays.x, arrays.mean, arrays.std, "cpu")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_progress_tells_where_training_stands(seed: int) -> None:
    seen: list[Progress] = []
    fit(new(seed), Arrays(seed, 32 * 20), PLAIN, progress=seen.append)
    assert [(at.epoch, at.step) for at in seen] == [
        (1, 16), (1, 20), (2, 36), (2, 40), (3, 56), (3, 60),
    ]  # fmt: skip
    assert {(at.epochs, at.steps) for at in seen} == {(3, 60)}
    assert all(at.images_per_second > 0 and math.isfinite(at.loss) for at in seen)
    assert seen[-1].seconds_left == 0


# --------------------------------------------------------------------------- augmentation


def batch_of(arrays: Arrays, seed: int, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """One batch of all images, brought back into their order, as uint8-like values."""
    recipe = replace(PLAIN, **changes)
    batches = Batches(
        arrays.x,
        arrays.y,
        recipe,
        (0.0,) * arrays.x.shape[3],
        (1 / 255,) * arrays.x.shape[3],
        torch.device("cpu"),
    )
    order = torch.randperm(len(arrays.x), generator=torch.Generator().manual_seed(seed)).numpy()
    images, labels = next(batches.epoch(len(arrays.x), 1, seed))
    back = np.argsort(order)
    return images.permute(0, 2, 3, 1).numpy()[back], labels.numpy()[back]


def test_shifts_and_mirrors_are_those_of_padding_and_cropping(seed: int) -> None:
    arrays = Arrays(seed, channels=3)
    images, labels = batch_of(arrays, seed, crop=0.25, flip=True)
    assert np.array_equal(labels, arrays.y)
    shown = set()
    for original, image in zip(arrays.x.astype(np.float32), images, strict=True):
        padded = np.pad(original, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        matches = {
            (down, across, mirrored)
            for down in range(5)
            for across in range(5)
            for mirrored in (False, True)
            if np.array_equal(
                image,
                padded[down : down + 8, across : across + 8][:, :: -1 if mirrored else 1],
            )
        }
        assert len(matches) == 1
        shown |= matches
    assert len(shown) > 15


@pytest.mark.parametrize(("channels", "mirrored"), [(1, False), (3, True)])
def test_only_colour_images_are_mirrored_by_default(
    channels: int, mirrored: bool, seed: int
) -> None:
    arrays = Arrays(seed, channels=channels)
    images, _ = batch_of(arrays, seed, flip=None)
    unchanged = [np.array_equal(a, b) for a, b in zip(arrays.x, images, strict=True)]
    assert all(unchanged) != mirrored
    assert any(unchanged)


def test_cutout_blanks_a_square(seed: int) -> None:
    arrays = Arrays(seed, channels=3)
    arrays.x |= 1  # nothing is blank before
    images, _ = batch_of(arrays, seed, cutout=0.5)
    blank = (images == 0).all(-1)
    assert np.array_equal(images[~blank], arrays.x[~blank])
    sizes = blank.sum((1, 2))
    assert sizes.max() == 16  # half of 8 pixels, squared
    assert sizes.min() >= 4  # of a square at a corner a quarter is inside
    for image in blank:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


# ---------------------------------------------------------------------------- checkpoints

CHILD = """
    import sys, time
    import numpy as np, torch
    from pathlib import Path
    torch.set_num_threads(1)
    import test_train as t

    def tell(progress):
        print(progress.epoch, progress.step, flush=True)
        time.sleep(0.05)

    seed = int(sys.argv[2])
    t.fit(t.new(seed), t.Arrays(seed, 32 * 20), t.LONG, checkpoint=Path(sys.argv[1]), progress=tell)
"""
LONG = replace(RECIPES["full"], epochs=8, batch_size=32)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, seed: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        arrays = Arrays(seed, 32 * 20)
        undisturbed = new(seed)
        expected = fit(undisturbed, arrays, LONG)

        folder = tmp_path / "state"
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(CHILD),
                str(folder),
                str(seed),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        assert child.stdout is not None
        stop = int(np.random.default_rng(seed).integers(2, 8))
        for line in child.stdout:
            if int(line.split()[0]) > stop:  # the state of epoch `stop` is written
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
        child.stdout.close()
        assert child.returncode == -signal.SIGKILL

        resumed, epochs = new(seed + 1), []
        result = fit(
            resumed, arrays, LONG, checkpoint=folder, progress=lambda p: epochs.append(p.epoch)
        )
        assert epochs[0] > stop
        assert same(resumed, undisturbed)
        assert result.accuracy == expected.accuracy
        assert [c["loss"] for c in result.curve] == [c["loss"] for c in expected.curve]
        assert len(list(folder.iterdir())) == 4  # two epochs, two files each
    finally:
        torch.set_num_threads(threads)


def test_images_read_ahead_from_disk_train_the_same(tmp_path: Path, seed: int) -> None:
    arrays = Arrays(seed, 320)
    expected, found = new(seed), new(seed)
    fit(expected, arrays, replace(PLAIN, crop=0.1))
    np.save(tmp_path / "images.npy", arrays.x)
    arrays.x = np.load(tmp_path / "images.npy", mmap_mode="r")
    fit(found, arrays, replace(PLAIN, crop=0.1))
    assert same(expected, found)


RANK = """
    import hashlib, json, sys
    from pathlib import Path
    import torch
    import test_train as t
    from gemkit.train import distributed

    torch.set_num_threads(1)
    seed = int(sys.argv[1])
    with distributed() as (rank, ranks):
        network = t.new(seed)
        result = t.fit(network, t.Arrays(seed, 512), t.SHARED)
        state = b"".join(v.numpy().tobytes() for v in network.state_dict().values())
        losses = [entry["loss"] for entry in result.curve]
        digest = hashlib.sha256(state).hexdigest()
    names = [one.read_text() for one in Path("/proc/self/task").glob("*/comm")]
    left = [name for name in names if "gloo" in name]
    print(json.dumps([rank, ranks, digest, result.accuracy, losses, left]), flush=True)
"""
SHARED = replace(PLAIN, epochs=6, batch_size=32, ema=0.05, crop=0.1)


def test_two_processes_train_one_network(seed: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANK), str(seed)],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent),
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert [one[:2] for one in told] == [[0, 2], [1, 2]]
    assert told[0][2] == told[1][2]  # the same weights and statistics
    assert told[0][4] == told[1][4]
    assert told[0][4][-1] < 0.8 * told[0][4][0]
    assert told[0][3] > 0.5
    # A thread that were left could take the process down at its end.
    assert [child.returncode for child in children] == [0, 0]
    assert [one[5] for one in told] == [[], []]


def test_a_batch_that_processes_cannot_share_is_refused(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"is_initialized": True, "get_rank": 0, "get_world_size": 5}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with pytest.raises(UserError, match="32 images cannot be shared evenly by 5 processes"):
        fit(new(seed), Arrays(seed), PLAIN)


class Interrupted(Exception):
    pass


def interrupted(folder: Path, seed: int, after: int = 2) -> None:
    def stop(progress: Progress) -> None:
        if progress.epoch > after:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(
            new(seed),
            Arrays(seed),
            replace(PLAIN, epochs=4),
            checkpoint=folder,
            progress=stop,
        )


@pytest.mark.parametrize("spoil", ["cut", "flipped", "no json", "json cut"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    spoil: str, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = replace(PLAIN, epochs=4)
    expected = new(seed)
    fit(expected, Arrays(seed), recipe)
    interrupted(tmp_path, seed)
    path = tmp_path / "epoch-2.safetensors"
    content = bytearray(path.read_bytes())
    if spoil == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif spoil == "flipped":
        content[-5] ^= 1
        path.write_bytes(content)
    elif spoil == "no json":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text('{"epoch": 2,')
    network, epochs = new(seed), []
    with caplog.at_level(logging.WARNING, "gemkit"):
        fit(
            network,
            Arrays(seed),
            recipe,
            checkpoint=tmp_path,
            progress=lambda p: epochs.append(p.epoch),
        )
    assert epochs[0] == 2
    assert same(network, expected)
    assert "epoch-2.safetensors is damaged or cut short" in caplog.text


def test_a_finished_training_is_only_evaluated_again(tmp_path: Path, seed: int) -> None:
    first, second = new(seed), new(seed + 1)
    before = fit(first, Arrays(seed), PLAIN, checkpoint=tmp_path)
    after = fit(second, Arrays(seed), PLAIN, checkpoint=tmp_path)
    assert same(first, second)
    assert (after.accuracy, after.curve, after.seconds) == (
        before.accuracy,
        before.curve,
        before.seconds,
    )


@pytest.mark.parametrize("other", ["recipe", "seed", "network", "images"])
def test_the_state_of_another_training_is_refused(other: str, tmp_path: Path, seed: int) -> None:
    fit(new(seed), Arrays(seed), PLAIN, checkpoint=tmp_path)
    network, arrays, recipe, number = new(seed), Arrays(seed), PLAIN, 5
    if other == "recipe":
        recipe = replace(PLAIN, learning_rate=0.01)
    elif other == "seed":
        number = 6
    elif other == "network":
        network.classifier = nn.Linear(8 * 16, 11)
    else:
        arrays = Arrays(seed + 1)
    with pytest.raises(UserError, match=f"another {other}"):
        fit(network, arrays, recipe, checkpoint=tmp_path, seed=number)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, seed: int) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        fit(new(seed), Arrays(seed), PLAIN, checkpoint=tmp_path / "file" / "state")


# ------------------------------------------------------------------------------ bad input


def test_a_loss_that_is_not_finite_ends_the_training(seed: int) -> None:
    with pytest.raises(TrainingFailed, match=r"the loss became (nan|inf) in epoch"):
        fit(new(seed), Arrays(seed), replace(PLAIN, learning_rate=1e30, epochs=5))


def test_missing_memory_is_explained(seed: int) -> None:
    class Large(Small):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    with pytest.raises(UserError, match=r"batches of 32 images: use a batch size of 16"):
        fit(Large(), Arrays(seed), PLAIN)


def test_more_classes_than_outputs_are_explained(seed: int) -> None:
    arrays = Arrays(seed)
    arrays.y[7] = 10
    with pytest.raises(UserError, match="has 10 classes, the labels go up to 10"):
        fit(new(seed), arrays, PLAIN)


def test_one_image_is_too_few(seed: int) -> None:
    with pytest.raises(UserError, match="1 training images are too few"):
        fit(new(seed), Arrays(seed, 1), PLAIN)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", ""])
def test_unknown_devices_are_explained(device: str, seed: int) -> None:
    with pytest.raises(UserError, match="device"):
        fit(new(seed), Arrays(seed), PLAIN, device=device)


def test_recipes_survive_json() -> None:
    for recipe in RECIPES.values():
        assert Recipe.from_json(recipe.to_json()) == recipe
    assert RECIPES["proxy"].changed(epochs=7).epochs == 7


def test_the_learning_rate_goes_with_the_batch() -> None:
    assert RECIPES["full"].changed(batch_size=512).learning_rate == 0.8
    assert RECIPES["standard"].changed(batch_size=128).learning_rate == 0.4
    assert RECIPES["standard"].changed(epochs=2).learning_rate == 0.2


def test_recipes_of_older_versions_are_read() -> None:
    old = {**RECIPES["full"].to_json(), "drop_path": 0.1, "schedule": "one-cycle", "mixup": 0.2}
    assert Recipe.from_json(old) == RECIPES["full"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a recipe is a JSON object"),
        ({}, "at least epochs"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 1, "batch_size": 1}, "batch_size is 1"),
        ({"epochs": 1, "learning_rate": 0}, "learning_rate is 0"),
        ({"epochs": 1, "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": 1, "warmup": 1}, "warmup is 1"),
        ({"epochs": 1, "crop": "much"}, "crop is 'much'"),
        ({"epochs": "\n"}, r"epochs is '\\n'"),
        ({"epochs": 1, "weight_decay": -1}, "weight_decay is -1"),
        ({"epochs": 1, "flip": 1}, "flip is 1"),
        ({"epochs": 1, "speed": 1}, "unknown setting 'speed'"),
    ],
)
def test_bad_recipes_are_explained(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Recipe.from_json(value, "config.json")
    assert str(caught.value).startswith("config.json: ")


def test_every_epoch_has_its_own_seed(seed: int) -> None:
    seeds: list[int] = []

    class Watched(Small):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seeds.append(torch.initial_seed())
            return super().forward(x)

    arrays = Arrays(seed, 40)
    for own in range(4):
        fit(Watched(), arrays, replace(PLAIN, epochs=8, batch_size=40), seed=own)
    assert len(seeds) == len(set(seeds)) == 32


@pytest.mark.parametrize(
    ("convolution", "contiguous"),
    [
        (nn.Conv2d(7, 9, 1, stride=2), True),
        (nn.Conv2d(2, 2, 1, stride=(1, 2)), True),
        (nn.Conv2d(8, 8, 1, stride=2), False),
        (nn.Conv2d(4, 4, 1), False),
        (nn.Conv2d(4, 4, 3, stride=2), False),
        (nn.Conv2d(4, 4, 1, stride=2, groups=2), False),
        (nn.Conv2d(12, 12, 3, groups=2), False),
    ],
)
def test_narrow_convolutions_that_skip_pixels_are_contiguous_on_a_cpu(
    convolution: nn.Conv2d, contiguous: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(3, convolution.in_channels, 3), convolution)
    expected = torch.contiguous_format if contiguous else torch.channels_last
    assert memory_format(network, torch.device("cpu")) == expected
    assert memory_format(network, torch.device("cuda")) == torch.channels_last


# As processors with AVX2 alone train, whose oneDNN kernel overran, under an allocator that looks
# at its memory: hence a child.
CHECKED = {
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "MALLOC_CHECK_": "3",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the checking allocator is glibc's")
def test_baselines_of_a_small_budget_train_without_a_crash() -> None:
    program = """
import numpy as np, torch
from gemkit.baselines import BASELINES, baseline
from gemkit.errors import UserError
from gemkit.recipe import Recipe
from gemkit.train import train
torch.set_num_threads(1)
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), np.arange(16) % 3
for name in BASELINES:
    try:
        network = baseline(name, (3, 32, 32), 3, max_macs=800_000)
    except UserError:  # too large a network for so little
        continue
    train(network, x, y, x[:3], y[:3], recipe=Recipe(epochs=2, batch_size=8), mean=(0.5,) * 3,
          std=(0.25,) * 3, seed=0, device="cpu")
    print(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **CHECKED},
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert {"regnet_y_400mf", "resnet8", "pc_darts"} <= set(done.stdout.split())


def taught(seed: int, views: int = 3, count: int = 64) -> tuple[Arrays, Lessons]:
    """Images in views of other brightness; the teacher knows their classes, their labels not."""
    data = Arrays(seed, count)
    images = tuple(np.clip(data.x + np.uint8(10) * view, 0, 255) for view in range(views))
    shares = np.full((views, count, 10), 0.01, np.float16)
    shares[:, np.arange(count), data.y] = 0.91
    return data, Lessons(images, shares)


def test_a_student_learns_what_its_teacher_says(seed: int) -> None:
    """The labels that it is given beside are wrong."""
    data, lessons = taught(seed)
    wrong = (data.y + 1) % 4
    torch.manual_seed(0)
    trained = train(
        Small(), data.x, wrong, data.x, data.y, recipe=replace(PLAIN, epochs=30),
        mean=(0.3,), std=(0.2,), seed=seed, device="cpu", lessons=lessons,
    )  # fmt: skip
    assert trained.accuracy > 0.7


def test_a_step_of_distillation_is_cross_entropy_with_the_shares(seed: int) -> None:
    """One step without momentum, against autograd by hand."""
    data, lessons = taught(seed, views=1, count=16)
    recipe = replace(
        PLAIN,
        epochs=1,
        batch_size=16,
        momentum=0.0,
        weight_decay=0.0,
        warmup=0.0,
        learning_rate=0.1,
    )
    torch.manual_seed(1)
    network = Small()
    other = Small()
    other.load_state_dict(network.state_dict())
    train(
        network, data.x, data.y, data.x, data.y, recipe=recipe, mean=(0.0,), std=(1.0,),
        seed=seed, device="cpu", lessons=lessons,
    )  # fmt: skip
    pixels = torch.from_numpy(data.x).permute(0, 3, 1, 2).float() / 255
    shares = torch.from_numpy(lessons.shares[0].astype(np.float32))
    loss = -(shares * other.train()(pixels).log_softmax(1)).sum(1).mean()
    loss.backward()
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path, seed: int) -> None:
    data, lessons = taught(seed)
    for shares in (lessons.shares, np.roll(lessons.shares, 1, 2)):

        def again(shares: Any = shares) -> Trained:
            return train(
                Small(), data.x, data.y, data.x, data.y, recipe=PLAIN, mean=(0.3,), std=(0.2,),
                seed=0, device="cpu", checkpoint=tmp_path,
                lessons=Lessons(lessons.images, shares),
            )  # fmt: skip

        if shares is lessons.shares:
            again()
        else:
            with pytest.raises(UserError, match="another lessons"):
                again()


def test_a_recipe_asks_for_steps(seed: int) -> None:
    recipe = Recipe(epochs=4, batch_size=10, least_steps=60)
    assert recipe.lengthened(100).epochs == 6
    assert recipe.lengthened(10_000).epochs == 4
    assert recipe.lengthened(5).epochs == 60
