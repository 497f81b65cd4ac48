"""The card says what is known; its Python lines run as they stand."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from onnxruntime import InferenceSession
from PIL import Image
from scipy.stats import binom

from gemkit.architecture import Skeleton, Stage
from gemkit.budget import Budget
from gemkit.export.card import interval, write_card
from gemkit.export.exporter import export_onnx, read_info
from gemkit.pictures import fit_image
from gemkit.records import Latency, Measurement
from networks import random_images, random_network

NAMES = ["cat", "dog", "old goat"]


@pytest.mark.parametrize("preprocessing", [False, True])
def test_python_lines_run(tmp_path: Path, seed: int, preprocessing: bool) -> None:
    rng = np.random.default_rng(seed)
    skeleton = Skeleton((3, 10, 8), 3, (1,), (Stage(1),))
    network, images = random_network(rng, skeleton, width=4), random_images(rng, 1, skeleton)
    model = tmp_path / "model.onnx"
    how = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "class_names": NAMES}
    exported = export_onnx(
        network, model, input_shape=(3, 10, 8), **how, preprocessing=preprocessing
    )
    measurement = Measurement(
        model="model.onnx",
        precision="fp32",
        provider="CPUExecutionProvider",
        threads=1,
        batch=1,
        latency_ms=Latency(0.123, 0.2, 0.25, 0.3),
        throughput=8130.0,
        load_ms=1.0,
        file_bytes=1000,
        machine={"processor": "Some | Core", "cores": 2, "board": None},
        versions={"onnxruntime": "1.2.3"},
        notes=("noisy machine: ...",),
    )
    card = tmp_path / "card.md"
    write_card(
        card,
        model,
        data="Pets (JPEG copy)",
        accuracy=0.9,
        test_images=200,
        budget=Budget(macs=3_000_000),
        parity_max_abs=exported.parity_max_abs,
        measurements=[measurement],
        files=[model],
        elsewhere="about 3 ms on my-device, predicted",
    )
    assert "about 3 ms on my-device, predicted." in card.read_text()
    text = card.read_text()
    for part in (
        "Pets (JPEG copy)",
        "90.00 % (95 % interval",
        "0.123 ms",
        "at most 3M MACs",
        hashlib.sha256(model.read_bytes()).hexdigest(),
        "onnxruntime 1.2.3",
        "Some | Core",
        "noisy machine",
        network.architecture.id,
    ):
        assert part in text
    assert text.count(exported.sha256) == 1  # listed once, though named twice
    front = ModelCard(text).data
    assert (front.library_name, front.pipeline_tag) == ("onnx", "image-classification")
    (result,) = front.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9)
    assert (result.dataset_name, result.dataset_type) == ("Pets (JPEG copy)", "pets-jpeg-copy")
    # As wide as it comes, and turned: prepared as everywhere else.
    wide = rng.integers(0, 256, (23, 61, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(wide).save(tmp_path / "image.png", exif=turned)
    with Image.open(tmp_path / "image.png") as opened:
        images = fit_image(opened, (3, 10, 8))[None]
    program = text.split("```python\n")[1].split("```")[0]
    program += "print(image.tobytes().hex())\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    answer, pixels = done.stdout.split("\n")[:2]
    inputs = read_info(model).normalise(images)
    assert answer == NAMES[InferenceSession(model).run(None, {"image": inputs})[0][0].argmax()]
    assert pixels == images.tobytes().hex()


def test_interval_covers(seed: int) -> None:
    """Over all outcomes of 360 images the interval holds the truth about 95 times of 100."""
    for true in (0.5, 0.9, 0.97):
        outcomes = np.arange(361)
        chance = binom.pmf(outcomes, 360, true)
        inside = [low <= true <= high for low, high in (interval(k / 360, 360) for k in outcomes)]
        assert 0.93 < chance[inside].sum() < 0.97
    assert interval(1.0, 10)[1] == pytest.approx(1.0)
    assert interval(0.0, 10)[0] == pytest.approx(0.0)
