"""Every reader is given damaged files: it answers or says one sentence, whatever the damage.

    python -m pytest tests/whole/test_readers.py -n 2 --inputs 20000      # `make fuzz`

Each input is a good one, damaged by hypothesis: JSON values replaced, removed and added anywhere;
bits, numbers and lengths of binary files changed; files cut short, joined or filled with anything.
A file outside the folder of its own, a hang of over twenty seconds, or an exception that is not a
`UserError` of one sentence, is a failure; hypothesis then looks for the smallest such input.
"""

import io
import json
import shutil
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gemkit import budget, data, pictures, recipe, train
from gemkit.app import options
from gemkit.app.classifier import Classifier
from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import Cell, read_cell
from gemkit.errors import UserError
from gemkit.export import benchmark, exporter, kit, latency, targets, timing
from gemkit.export.onnx_builder import build_onnx
from gemkit.export.onnx_file import load_onnx
from gemkit.files import read_json, write_json
from gemkit.network import build, load_network, save_weights
from gemkit.records import Latency, Measurement, Model, Trial
from gemkit.search import encoder, tables
from gemkit.store import Run
from nasbench_records import framed, small_nasbench101

HANG_SECONDS = 20
CELL = Cell(("input", "sep3x3", "conv1x1", "sep3x3"), ((0, 1), (0, 2), (1, 3), (2, 3)))
SKELETON = skeleton_for((1, 8, 8), 10)


@dataclass(frozen=True)
class Reader:
    """What reads a file, a good file, and how it is damaged."""

    name: str
    good: Callable[[Path], None]
    """Writes a good file."""
    read: Callable[[Path], Any]
    kind: str = "json"
    """`json`, `binary` or `text`."""


# --- damage -------------------------------------------------------------------------------------

STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["input", "conv1x1", "nan", "../x", "/etc/passwd", "\x00", "1e999", "9" * 5000]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-2, 5), max_size=4),
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=2), max_leaves=20),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
CHANGES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2**16), max_size=8),  # the way to a place
        st.sampled_from(["replace", "replace", "remove", "repeat", "add", "nest"]),
        STRANGE,
    ),
    min_size=1,
    max_size=4,
)
PATCHES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "flip", "byte", "number", "cut", "drop", "repeat", "fill"]),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=6,
)


def changed(value: Any, way: list[int], what: str, new: Any) -> Any:
    """A JSON value with one change at the place that `way` leads to."""
    if not way or not isinstance(value, dict | list) or not value:
        if what == "nest":
            return [value]
        return new
    names = list(value) if isinstance(value, dict) else list(range(len(value)))
    name = names[way[0] % len(names)]
    copy = value.copy()
    if len(way) == 1 and what == "remove":
        del copy[name]
    elif len(way) == 1 and what == "repeat" and isinstance(copy, list):
        copy.append(value[name])
    elif len(way) == 1 and what == "add" and isinstance(copy, dict):
        copy["added"] = new
    else:
        copy[name] = changed(value[name], way[1:], what, new)
    return copy


def patched(content: bytes, patches: list[tuple[float, str, int]]) -> bytes:
    """A binary file with some bytes changed, cut off, left out, repeated or made anew."""
    new = bytearray(content)
    for share, what, number in patches:
        at = min(int(share * len(new)), max(len(new) - 1, 0))
        length = number % 64 + 1
        if what == "flip" and new:
            new[at] ^= 1 << number % 8
        elif what == "byte" and new:
            new[at] = number % 256
        elif what == "number":
            new[at : at + 4] = struct.pack("<I", number)
        elif what == "cut":
            del new[at:]
        elif what == "drop":
            del new[at : at + length]
        elif what == "repeat":
            new[at:at] = new[at : at + length]
        elif what == "fill":
            new[at : at + length] = bytes([number % 256]) * length
    return bytes(new)


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(read: Callable[[], Any], folder: Path) -> None:
    """One input: an answer or one sentence, in time, and no file left in `folder`'s parent."""
    around = set(folder.parent.iterdir())
    with in_time(HANG_SECONDS):
        try:
            read()
        except (UserError, timing.MeasureError, train.TrainingFailed) as error:
            sentence = str(error)
            assert sentence.strip(), "an empty sentence"
            assert "\n" not in sentence, sentence
            assert len(sentence) < 1000, sentence[:2000]
    assert set(folder.parent.iterdir()) == around


# --- good files ---------------------------------------------------------------------------------


def good_cell(path: Path) -> None:
    write_json(path, CELL.to_json())


def good_recipe(path: Path) -> None:
    write_json(path, recipe.RECIPES["full"].to_json())


def good_architecture(path: Path) -> None:
    write_json(path, Architecture((CELL,), SKELETON, 8).to_json())


def good_run(path: Path) -> None:
    """A run's folder; `path` is the file that will be damaged."""
    folder = path.parent
    shutil.rmtree(folder, ignore_errors=True)
    with Run.create(folder, {"budget": {"macs": 1000}, "seed": 1, "data": "digits"}) as run:
        run.add_trials([Trial(0, 0, CELL.key, CELL, 8, 100, 10, 1000, seed=3, epochs=1)])
        run.trial_started(0)
        run.trial_done(0, 0.5, 1.0)
        measured = Measurement(
            model=CELL.id, provider="CPUExecutionProvider", precision="fp32", threads=1, batch=1,
            latency_ms=Latency(1.0), throughput=1000.0, load_ms=1.0, file_bytes=1000,
        )  # fmt: skip
        run.put(Model(
            id=CELL.id, cell=CELL, width=8, macs=100, params=10, peak_memory_bytes=1000,
            state="done", accuracy=0.5, measurements=(measured,),
        ))  # fmt: skip
        run.set_setting("proposing_seconds", 1.5)


def read_run(path: Path) -> None:
    with Run.open(path.parent) as run:
        run.content().to_json()
        run.trial_summaries()
        run.trials_named(CELL.id)


def continue_run(path: Path) -> None:
    with Run.start(path.parent, {"budget": {"macs": 1000}, "seed": 1, "data": "digits"}, True):
        pass


def good_onnx(path: Path) -> None:
    torch.manual_seed(0)
    exporter.export_onnx(
        build(Architecture((CELL,), SKELETON, 4)),
        path,
        input_shape=(1, 8, 8),
        class_names=[str(digit) for digit in range(10)],
        mean=[0.5],
        std=[0.25],
    )


def good_metadata(path: Path) -> None:
    """What a file says about itself, as JSON; `bench_metadata` puts it into a file."""
    file = path.with_name("good.onnx")
    good_onnx(file)
    model = load_onnx(file)
    file.unlink()
    write_json(path, {entry.key: json.loads(entry.value) for entry in model.metadata_props})


def bench_metadata(path: Path) -> None:
    import onnx

    said = read_json(path)
    if not isinstance(said, dict):
        return
    model = onnx.ModelProto()
    model.CopyFrom(one_model())
    del model.metadata_props[:]
    for name, value in said.items():
        text = json.dumps(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        key = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        model.metadata_props.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    bench_onnx(path)
    opened = Classifier.open(path)
    channels, height, width = opened.info.input_shape
    opened.classify(np.zeros((height, width, channels), np.uint8))


@cache
def one_model() -> Any:
    return build_onnx(Architecture((CELL,), SKELETON, 4), seed=0)


def bench_onnx(path: Path) -> None:
    benchmark.inspect(path)
    exporter.read_info(path)
    session = timing.open_session(str(path), 1, "CPUExecutionProvider")
    timing.random_inputs(session, 1, str(path))


def good_weights(path: Path) -> None:
    torch.manual_seed(0)
    save_weights(build(Architecture((CELL,), SKELETON, 4)), path)


def good_encoder(path: Path) -> None:
    shutil.copy(encoder.SHIPPED, path)


def good_images(path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
    labels = np.arange(24) % 2
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[:4], y_test=labels[:4])


def good_encoded_images(path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(8):
        written = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(written, "PNG")
        files.append(written.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    octets: NDArray[np.uint8] = np.frombuffer(b"".join(files), dtype=np.uint8)
    labels = np.arange(8) % 2
    np.savez(
        path, train_bytes=octets, train_offsets=offsets, y_train=labels,
        test_bytes=octets, test_offsets=offsets, y_test=labels,
    )  # fmt: skip


def good_table(path: Path) -> None:
    rng = np.random.default_rng(0)
    adjacency = np.triu(rng.random((6, 5, 5)) < 0.6, 1)
    adjacency[:, np.arange(4), np.arange(4) + 1] = True
    np.savez(
        path,
        adjacency=adjacency.astype(np.uint8),
        ops=np.tile(np.array([0, 1, 2, 1, 3], dtype=np.int8), (6, 1)),
        op_names=np.array(["input", "conv1x1-bn-relu", "conv3x3-bn-relu", "output"]),
        accuracy=rng.random(6),
    )


MEMBER = b"\n--- member "


def apart(good: Callable[[Path], None]) -> Callable[[Path], None]:
    """Writes the members of a zip file one after the other, for `together`."""

    def written(path: Path) -> None:
        packed = path.with_name("good.npz")
        good(packed)
        with zipfile.ZipFile(packed) as archive:
            parts = [
                MEMBER + name.encode() + b"\n" + archive.read(name) for name in archive.namelist()
            ]
        packed.unlink()
        path.write_bytes(b"".join(parts))

    return written


def together(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Reads a zip file of damaged members whose checksums are right."""

    def reading(path: Path) -> Any:
        parts = path.read_bytes().split(MEMBER)[1:]
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same name twice
            for part in parts:
                name, _, content = part.partition(b"\n")
                archive.writestr(name.decode(errors="replace").replace("\0", "") or "x", content)
        return read(path)

    return reading


def read_images(path: Path) -> data.Dataset:
    return data.load(f"npz:{path}")


def good_measurements(path: Path) -> None:
    files = [
        {"file": f"{n}.onnx", "sha256": "0" * 64, "cell": CELL.to_json(), "width": 4 + n}
        for n in range(4)
    ]
    manifest: dict[str, Any] = {"skeleton": SKELETON.to_json(), "files": files}
    manifest["id"] = timing.manifest_id(manifest)
    rows = [
        {"file": entry["file"], "sha256": entry["sha256"], "calm_ms": 1.0 + n,
         "latency_ms": {"p50": 1.1 + n}}
        for n, entry in enumerate(files)
    ]  # fmt: skip
    write_json(
        path,
        {"kind": "gemkit measurements", "format": 1, "manifest": manifest, "measured": rows,
         "device": {"machine": {"processor": "some"}}},
    )  # fmt: skip


def read_measured(path: Path) -> None:
    """With the manifest's own number corrected, so that damage inside the manifest is reached."""
    value = read_json(path)
    if isinstance(value, dict) and isinstance(value.get("manifest"), dict):
        value["manifest"]["id"] = timing.manifest_id(value["manifest"])
        write_json(path, value)
    kit.read_measurements(path)


def good_latency_model(path: Path) -> None:
    cells = [Cell(("input", "conv1x1", "sep3x3")[: n + 2], ((0, 1),) * (n == 0) or ((0, 1), (1, 2)))
             for n in range(2)]  # fmt: skip
    measured = [latency.Measured(cells[n % 2], 4 + n // 2, 0.1 * (n + 1)) for n in range(12)]
    latency.save_model(latency.LatencyModel.fit(SKELETON, measured, {"machine": {}}), path)


def good_target(path: Path) -> None:
    model = path.with_name("latency.json")
    good_latency_model(model)
    mine = targets.Target(
        "mine", "a board", budget.Budget(latency_ms=3.0), (), latency.load_model(model)
    )
    model.unlink()
    write_json(path, mine.to_json())


def good_picture(path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)


def read_picture(path: Path) -> None:
    pictures.read_picture(path, (3, 8, 8))


def good_records(path: Path) -> None:
    path.write_bytes(framed(small_nasbench101(0)))


def good_records_inside(path: Path) -> None:
    """The records without frames, one a line: `read_reframed` frames them after the damage."""
    path.write_bytes(b"\n".join(small_nasbench101(0)))


def read_reframed(path: Path) -> None:
    """Damage inside records whose checksums are right."""
    path.write_bytes(framed(path.read_bytes().split(b"\n")))
    tables.read_nasbench101(path)


# --- the test -----------------------------------------------------------------------------------

READERS = [
    Reader("cell", good_cell, read_cell),
    Reader("recipe", good_recipe, lambda path: recipe.Recipe.from_json(read_json(path))),
    Reader("architecture", good_architecture, lambda path: Architecture.from_json(read_json(path))),
    Reader("config.json", good_run, read_run),
    Reader("config.json", good_run, continue_run),
    Reader("search.db", good_run, read_run, "binary"),
    Reader("model.onnx", good_onnx, bench_onnx, "binary"),
    Reader("weights.safetensors", good_weights, load_network, "binary"),
    Reader("encoder.safetensors", good_encoder, encoder.load_encoder, "binary"),
    Reader("images.npz", good_images, read_images, "binary"),
    Reader("encoded.npz", good_encoded_images, read_images, "binary"),
    Reader("images.apart", apart(good_images), together(read_images), "binary"),
    Reader("encoded.apart", apart(good_encoded_images), together(read_images), "binary"),
    Reader("table.apart", apart(good_table), together(tables.load), "binary"),
    Reader("metadata.json", good_metadata, bench_metadata),
    Reader("table.npz", good_table, tables.load, "binary"),
    Reader("table.tfrecord", good_records, tables.read_nasbench101, "binary"),
    Reader("records", good_records_inside, read_reframed, "binary"),
    Reader("measurements.json", good_measurements, read_measured),
    Reader("latency.json", good_latency_model, latency.load_model),
    Reader("target.json", good_target, targets.read_target),
    Reader("picture.png", good_picture, read_picture, "binary"),
    Reader("picture.jpg", good_picture, read_picture, "binary"),
]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files(
    reader: Reader, tmp_path: Path, inputs: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "own"
    folder = home / "input"
    folder.mkdir(parents=True)
    monkeypatch.chdir(home)
    path = folder / reader.name
    reader.good(path)
    content = path.read_bytes()
    check(lambda: reader.read(path), folder)
    value = json.loads(content) if reader.kind == "json" else None
    asked = 0

    def ask(damaged: bytes) -> None:
        nonlocal asked
        asked += 1
        if reader.good is good_run and asked % 50 == 1:
            reader.good(path)  # a log beside the database may have been changed by the one before
        path.write_bytes(damaged)
        check(lambda: reader.read(path), folder)

    often = hypothesis_settings(inputs)

    if reader.kind == "json":

        @hypothesis.seed(seed)
        @often
        @given(CHANGES, st.one_of(st.none(), st.none(), st.none(), PATCHES))
        def damaged_json(changes: list[Any], patches: list[Any] | None) -> None:
            new = value
            for way, what, strange in changes:
                new = changed(new, way, what, strange)
            written = json.dumps(new).encode()
            ask(patched(written, patches) if patches else written)

        damaged_json()
    else:

        @hypothesis.seed(seed)
        @often
        @given(st.one_of(PATCHES, PATCHES, PATCHES, st.binary(max_size=200)))
        def damaged_octets(damage: bytes | list[Any]) -> None:
            ask(damage if isinstance(damage, bytes) else patched(content, damage))

        damaged_octets()
    print(f"{reader.name}: {asked} inputs")


PARSERS = {
    "count": budget.parse_count,
    "latency": budget.parse_latency_ms,
    "memory": budget.parse_bytes,
    "duration": options.parse_duration,
    "target": targets.target,
    "target's name": targets.check_name,
    "data": data.load,
}


@pytest.mark.parametrize("name", PARSERS)
def test_texts_of_the_command_line(
    name: str, inputs: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own" / "input"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GEMKIT_DATA", str(folder))
    monkeypatch.setenv("GEMKIT_CONFIG", str(folder))
    likely = st.from_regex(r"[-+0-9.eE ]{0,12}(k|M|G|ms|us|s|kB|MiB|h|m|:|npz:|\.\./|~)?[a-z]{0,4}")

    @hypothesis.seed(seed)
    @hypothesis_settings(inputs)
    @given(st.one_of(likely, st.text(max_size=30)))
    def some_text(text: str) -> None:
        if text.partition(":")[0] not in ("cifar10", "cifar100"):  # these would be downloaded
            check(lambda: PARSERS[name](text), folder)

    some_text()


def hypothesis_settings(inputs: int) -> settings:
    return settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
