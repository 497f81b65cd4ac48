"""Files in onnxruntime's own format give the outputs of the ONNX files that they were made of."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from gemkit.errors import UserError
from gemkit.export import quantize
from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.ort_format import to_ort
from networks import DIGITS, random_cell, random_images, random_network


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    path = tmp_path / "model.onnx"
    export_onnx(
        random_network(rng, DIGITS, (random_cell(rng, 4, "concat"),)),
        path,
        input_shape=(1, 8, 8),
        class_names=[str(number) for number in range(10)],
        mean=(0.3,),
        std=(0.4,),
    )
    return path


def test_outputs_are_those_of_the_onnx_file(
    source: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "latency_ms", lambda paths: [1.0] * len(paths))
    images = random_images(np.random.default_rng(seed), 40)
    labelled = images, np.arange(40) % 10
    int8 = source.with_name("model.optimized.onnx")  # a name that the converter would pass over
    quantize.to_int8(source, int8, training=labelled, test=labelled)
    for path, allowed, operator in ((source, 1e-4, "Conv"), (int8, 0.02, "QLinearConv")):
        made = to_ort(path, path.with_suffix(".ort"), test=labelled)
        x = read_info(path).normalise(images)
        wanted, found = (
            ort.InferenceSession(file).run(None, {"image": x})[0] for file in (path, made.path)
        )
        assert np.abs(found - wanted).max() <= allowed * max(1.0, float(np.abs(wanted).max()))
        assert made.accuracy == pytest.approx(float((found.argmax(1) == labelled[1]).mean()))
        assert made.path.read_bytes()[4:8] == b"ORTM"
        needed = made.operators.read_text()
        assert needed.startswith(f"# needed by {made.path.name}\nai.onnx;")
        assert operator in needed
        assert str(source.parent) not in needed
        assert made.to_json()["precision"] == read_info(path).precision


def test_what_cannot_be_written(source: Path) -> None:
    with pytest.raises(UserError, match=r"by the ending \.ort"):
        to_ort(source, source.with_name("model.bin"))
    source.write_text("words")
    with pytest.raises(UserError, match="no whole ONNX file"):
        to_ort(source, source.with_suffix(".ort"))
    assert [path.name for path in source.parent.iterdir()] == ["model.onnx"]
