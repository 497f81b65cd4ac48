"""Data: every source against files written here, and every kind of bad input."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gemkit import cifar, pictures
from gemkit.data import Dataset, final_split, limited, load, proxy_split
from gemkit.errors import UserError

Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data-folder"
    monkeypatch.setenv("GEMKIT_DATA", str(folder))
    return folder


@pytest.fixture
def arrays(seed: int) -> Arrays:
    """A small, valid set of arrays: 40 training and 20 test images of 6x5 pixels, 4 classes."""
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(20) % 4,
    }


def saved(path: Path, arrays: Arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def jpeg(pixels: np.ndarray, quality: int = 90, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=quality)
    return file.getvalue()


def encoded(arrays: Arrays, **options: Any) -> Arrays:
    """Images as encoded bytes."""
    found: Arrays = {}
    for part in ("train", "test"):
        pictures = [jpeg(pixels, **options) for pixels in arrays[f"x_{part}"]]
        found[f"{part}_bytes"] = np.frombuffer(b"".join(pictures), np.uint8)
        found[f"{part}_offsets"] = np.cumsum([0, *map(len, pictures)])
        found[f"y_{part}"] = arrays[f"y_{part}"]
    return found


def check(dataset: Dataset) -> None:
    """What holds for every data set."""
    for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)):
        assert x.dtype == np.uint8
        assert x.ndim == 4
        assert y.dtype == np.int64
        assert y.shape == (len(x),)
        assert y.min() >= 0
        assert y.max() < dataset.classes
    scaled = dataset.x_train.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, scaled.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(dataset.std, scaled.std((0, 1, 2)), atol=1e-9)
    height, width, channels = dataset.x_train.shape[1:]
    assert dataset.input_shape == (channels, height, width)


def test_importing_is_light() -> None:
    code = "import sys, gemkit.data; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


# --------------------------------------------------------------------------------- sources


def test_digits_are_scikit_learns_divided_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    dataset = load("digits")
    check(dataset)
    assert dataset.x_train.shape == (1437, 8, 8, 1)
    assert dataset.x_test.shape == (360, 8, 8, 1)
    everything = np.concatenate([dataset.x_train, dataset.x_test])[..., 0]
    original = np.rint(load_digits().images / 16 * 255).astype(np.uint8)
    assert sorted(map(bytes, everything)) == sorted(map(bytes, original))
    share = np.bincount(load_digits().target) * 360 / 1797
    assert np.abs(np.bincount(dataset.y_test) - share).max() < 1
    again = load("digits")
    assert np.array_equal(dataset.x_test, again.x_test)


def test_npz_gives_back_what_was_saved(tmp_path: Path, arrays: Arrays) -> None:
    dataset = load(saved(tmp_path / "mine.npz", arrays))
    check(dataset)
    assert dataset.name == "mine"
    assert dataset.class_names == ("0", "1", "2", "3")
    assert np.array_equal(dataset.x_train, arrays["x_train"])
    assert np.array_equal(dataset.y_test, arrays["y_test"])
    arrays |= {"class_names": np.array(["a", "b", "c", "d"]), "name": np.array("Leaves")}
    dataset = load(saved(tmp_path / "mine.npz", arrays))
    assert (dataset.name, dataset.class_names) == ("Leaves", ("a", "b", "c", "d"))


def test_two_classes_are_enough(tmp_path: Path, arrays: Arrays) -> None:
    arrays |= {f"y_{part}": arrays[f"y_{part}"] % 2 for part in ("train", "test")}
    assert load(saved(tmp_path / "two.npz", arrays)).classes == 2


def test_npz_without_a_channel_axis_is_grey(tmp_path: Path, arrays: Arrays) -> None:
    arrays |= {f"x_{part}": arrays[f"x_{part}"][..., 0] for part in ("train", "test")}
    assert load(saved(tmp_path / "grey.npz", arrays)).input_shape == (1, 6, 5)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_npz_may_hold_a_validation_part(as_bytes: bool, tmp_path: Path, arrays: Arrays) -> None:
    given = arrays["x_test"][:12], np.arange(12) % 4
    arrays = encoded(arrays, kind="PNG") if as_bytes else arrays
    more: Arrays = {"y_validation": given[1], "extra": np.zeros(3)}
    if as_bytes:
        pictures_ = [np.frombuffer(jpeg(one, kind="PNG"), np.uint8) for one in given[0]]
        more["validation_bytes"] = np.concatenate(pictures_)
        more["validation_offsets"] = np.cumsum([0, *map(len, pictures_)])
    else:
        more["x_validation"] = given[0]
    data = load(saved(tmp_path / "three.npz", arrays | more))
    assert np.array_equal(data.x_validation, given[0])
    assert data.identity is not None
    assert data.identity.validation == (3, 3, 3, 3)
    assert "not used: extra" in data.note
    for split in (proxy_split(data, 0), final_split(data)):
        assert len(split.y_train) == len(data.y_train)
        assert np.array_equal(split.x_validation, given[0])


def test_encoded_images_decode_to_the_same_pixels(tmp_path: Path, arrays: Arrays) -> None:
    dataset = load(saved(tmp_path / "png.npz", encoded(arrays, kind="PNG")))
    check(dataset)
    assert np.array_equal(dataset.x_train, arrays["x_train"])
    assert dataset.note == "decoded from PNG"
    dataset = load(saved(tmp_path / "jpeg.npz", encoded(arrays, quality=61)))
    assert dataset.note == "decoded from JPEG q61"
    with Image.open(io.BytesIO(jpeg(arrays["x_test"][7], quality=61))) as picture:
        assert np.array_equal(dataset.x_test[7], np.asarray(picture))


def test_large_sets_are_decoded_once(
    tmp_path: Path, arrays: Arrays, own_data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "CACHED_FROM", 30)
    spec = saved(tmp_path / "png.npz", encoded(arrays, kind="PNG"))
    first = load(spec)
    kept = list((own_data_folder / "decoded").iterdir())
    assert len(kept) == 1  # the training images; the 20 test images are too few
    again = load(spec)
    assert isinstance(again.x_train, np.memmap)
    part = pictures.selected(again.x_train, np.array([4, 1, 3]))
    assert type(part) is not np.ndarray  # still on the disk
    expected = arrays["x_train"][[4, 1, 3]]
    assert part.shape == expected.shape
    assert part.nbytes == expected.nbytes
    for places in (slice(None), slice(None, None, 2), np.array([2, 0]), 1):
        assert np.array_equal(part[places], expected[places])
    assert np.array_equal(np.asarray(part), expected)
    assert np.array_equal(first.x_train, again.x_train)
    assert np.array_equal(again.x_train, arrays["x_train"])
    kept[0].write_bytes(kept[0].read_bytes()[:50])  # a damaged copy is made anew
    assert np.array_equal(load(spec).x_train, arrays["x_train"])
    arrays["x_train"] = arrays["x_train"][::-1]
    changed = load(saved(tmp_path / "png.npz", encoded(arrays, kind="PNG")))
    assert np.array_equal(changed.x_train, arrays["x_train"])


def test_the_copy_of_cifar10_is_called_one(shared_data: Path, tmp_path: Path) -> None:
    with np.load(shared_data / "cifar10_jpeg.npz") as file:
        part: Arrays = {"class_names": file["class_names"]}
        for name, step in (("train", 500), ("test", 50)):
            rows = range(0, len(file[f"y_{name}"]), step)
            content, offsets = file[f"{name}_bytes"], file[f"{name}_offsets"]
            pictures = [content[offsets[row] : offsets[row + 1]] for row in rows]
            part[f"{name}_bytes"] = np.concatenate(pictures)
            part[f"{name}_offsets"] = np.cumsum([0, *map(len, pictures)])
            part[f"y_{name}"] = file[f"y_{name}"][rows]
    dataset = load(saved(tmp_path / "some.npz", part))
    assert dataset.name == "CIFAR-10 (JPEG q75 copy)"
    assert dataset.input_shape == (3, 32, 32)
    assert dataset.class_names[3] == "cat"
    assert np.allclose(dataset.mean, (0.4913, 0.4821, 0.4465), atol=0.06)


def write_cifar(folder: Path, source: str, rng: np.random.Generator, each: int = 30) -> Arrays:
    """CIFAR's binary files as its page describes them, with random content."""
    folder.mkdir(parents=True)
    names, label_bytes, classes = (
        ([f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"], 1, 10)
        if source == "cifar10"
        else (["train.bin", "test.bin"], 2, 100)
    )
    images, labels = [], []
    for name in names:
        pixels = rng.integers(0, 256, (each, 3, 32, 32), dtype=np.uint8)
        label = rng.permutation(each).astype(np.uint8) % classes
        head = [label] if label_bytes == 1 else [label // 5, label]
        records = np.concatenate([*(h[:, None] for h in head), pixels.reshape(each, -1)], axis=1)
        (folder / name).write_bytes(records.tobytes())
        images.append(pixels)
        labels.append(label)
    listed = "batches.meta.txt" if source == "cifar10" else "fine_label_names.txt"
    (folder / listed).write_text("\n".join(f"class{k}" for k in range(classes)) + "\n\n")
    return {
        "x_train": np.concatenate(images[:-1]).transpose(0, 2, 3, 1),
        "y_train": np.concatenate(labels[:-1]),
        "x_test": images[-1].transpose(0, 2, 3, 1),
        "y_test": labels[-1],
    }


CIFAR = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}


@pytest.mark.parametrize("source", CIFAR)
def test_cifar_is_read_from_its_binary_files(source: str, own_data_folder: Path, seed: int) -> None:
    expected = write_cifar(own_data_folder / CIFAR[source], source, np.random.default_rng(seed))
    dataset = load(source)
    check(dataset)
    for name, array in expected.items():
        assert np.array_equal(getattr(dataset, name), array), name
    assert dataset.class_names[1] == "class1"


def test_cifar_is_unpacked_from_its_archive_if_that_is_whole(
    own_data_folder: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_cifar(
        tmp_path / "cifar-10-batches-bin", "cifar10", np.random.default_rng(seed)
    )
    own_data_folder.mkdir()
    archive = own_data_folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz is damaged"):
        load("cifar10")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    changed = {**vars(cifar.ARCHIVES["cifar10"]), "sha256": digest}
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", cifar.Archive(**changed))
    assert np.array_equal(load("cifar10").x_train, expected["x_train"])


def test_cifar_that_cannot_be_downloaded_says_where_it_belongs(
    own_data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {**vars(cifar.ARCHIVES["cifar100"])}

    class Unreachable(cifar.Archive):
        @property
        def url(self) -> str:
            return "http://127.0.0.1:9/cifar-100-binary.tar.gz"

    monkeypatch.setitem(cifar.ARCHIVES, "cifar100", Unreachable(**nowhere))
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        load("cifar100")
    assert str(own_data_folder / "cifar-100-binary.tar.gz") in str(caught.value)
    assert not list(own_data_folder.glob("*"))


@pytest.mark.parametrize("spoil", ["cut", "label"])
def test_damaged_cifar_is_named(spoil: str, own_data_folder: Path, seed: int) -> None:
    write_cifar(own_data_folder / CIFAR["cifar10"], "cifar10", np.random.default_rng(seed))
    path = own_data_folder / CIFAR["cifar10"] / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    if spoil == "cut":
        del content[-100:]
    else:
        content[3073 * 4] = 10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_3.bin") as caught:
        load("cifar10")
    assert spoil == "cut" or "record 4: label 10" in str(caught.value)


def write_folder(root: Path, rng: np.random.Generator, each: int, classes: str = "ab") -> None:
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_image_folder_in_imagenet_layout(held_out: str, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    write_folder(tmp_path / "set" / "train", rng, 5)
    write_folder(tmp_path / "set" / held_out, rng, 3)
    (tmp_path / "set" / "train" / "a" / "notes.txt").write_text("no image")
    dataset = load(f"imagefolder:{tmp_path / 'set'}@10")
    check(dataset)
    assert dataset.name == "set"
    assert dataset.class_names == ("a", "b")
    assert dataset.x_train.shape == (10, 10, 10, 3)
    assert dataset.y_test.tolist() == [0, 0, 0, 1, 1, 1]
    assert load(f"imagefolder:{tmp_path / 'set'}").input_shape == (3, 64, 64)


def test_any_name_of_a_picture_will_do(tmp_path: Path, seed: int) -> None:
    write_folder(tmp_path / "set", np.random.default_rng(seed), 4)
    odd = os.fsencode(tmp_path / "set" / "a") + b"/caf\xe9.png"
    os.rename(tmp_path / "set" / "a" / "0.png", odd)
    assert len(load(f"imagefolder:{tmp_path / 'set'}@8").x_train) == 6
    with open(odd, "wb") as file:
        file.write(b"no picture")
    with pytest.raises(UserError, match=r"caf.*png"):
        load(f"imagefolder:{tmp_path / 'set'}@8")


def test_what_a_killed_process_decoded_is_removed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, own_data_folder: Path
) -> None:
    write_folder(tmp_path / "set", np.random.default_rng(seed), 5)
    monkeypatch.setattr(pictures, "CACHED_FROM", 1)
    load(f"imagefolder:{tmp_path / 'set'}@8")
    kept = sorted((own_data_folder / "decoded").iterdir())
    for path in kept:
        old, new = (path.with_name(f".{path.name}.{mark}.npy") for mark in ("0123abcd", "4567abcd"))
        old.write_bytes(b"half")
        os.utime(old, (1, 1))
        new.write_bytes(b"of a process that is at work")
        path.unlink()
    load(f"imagefolder:{tmp_path / 'set'}@8")
    left = sorted((own_data_folder / "decoded").iterdir())
    assert [path for path in left if not path.name.startswith(".")] == kept
    assert {path.name.split(".")[-2] for path in left if path not in kept} == {"4567abcd"}


def test_images_too_many_to_keep_are_streamed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, own_data_folder: Path
) -> None:
    from gemkit.recipe import Recipe
    from gemkit.train import train

    write_folder(tmp_path / "set", np.random.default_rng(seed), 12)
    kept = load(f"imagefolder:{tmp_path / 'set'}@16")
    monkeypatch.setattr(pictures, "STREAMED_FROM", 1000)
    streamed = load(f"imagefolder:{tmp_path / 'set'}@16")
    assert isinstance(streamed.x_train, pictures.StreamedImages)
    assert not own_data_folder.exists()
    assert streamed.x_train.shape == kept.x_train.shape
    assert streamed.x_train.nbytes == kept.x_train.nbytes
    rows = np.random.default_rng(seed).permutation(len(kept.x_train))[:7]
    for index in (rows, 3, slice(2, 9, 3), slice(0, 0)):
        np.testing.assert_array_equal(streamed.x_train[index], kept.x_train[index])
    np.testing.assert_array_equal(np.asarray(streamed.x_test), kept.x_test)
    np.testing.assert_allclose(streamed.mean, kept.mean)
    assert proxy_split(streamed, 0).x_train.shape == proxy_split(kept, 0).x_train.shape

    weights = []
    for dataset in (kept, streamed):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(4, 2),
        )  # fmt: skip
        train(
            network, dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test,
            recipe=Recipe(epochs=2, batch_size=4), mean=dataset.mean, std=dataset.std,
            seed=seed, device="cpu", checkpoint=tmp_path / str(len(weights)),
        )  # fmt: skip
        weights.append(network[0].weight)
    assert torch.equal(*weights)


def test_flat_image_folder_keeps_a_fifth_for_the_test(tmp_path: Path, seed: int) -> None:
    write_folder(tmp_path / "flat", np.random.default_rng(seed), 10, "xyz")
    dataset = load(f"imagefolder:{tmp_path / 'flat'}@20")
    assert np.bincount(dataset.y_test).tolist() == [2, 2, 2]
    assert np.bincount(dataset.y_train).tolist() == [8, 8, 8]
    assert np.array_equal(dataset.x_test, load(f"imagefolder:{tmp_path / 'flat'}@20").x_test)


def test_pictures_are_cropped_at_the_centre_and_turned(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    assert (pictures.fit_image(Image.fromarray(wide), (3, 10, 10)) == 200).all()
    picture = Image.fromarray(np.array([[0, 255], [0, 255]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        assert pictures.fit_image(turned, (1, 2, 2))[..., 0].tolist() == [[255, 0], [255, 0]]
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    assert pictures.fit_image(deep, (1, 4, 4))[0, 0, 0] == 40_000 >> 8


# --------------------------------------------------------------------------------- splits


def striped(total: int, classes: int, seed: int) -> Dataset:
    """A data set whose images carry their own row number."""
    x = np.zeros((total, 2, 2, 1), dtype=np.uint8)
    x.reshape(total, 4)[:] = np.arange(total)[:, None] // 256 ** np.arange(4) % 256
    y = np.random.default_rng(seed).integers(0, classes, total)
    names = tuple(map(str, range(classes)))
    return Dataset("rows", x, y, x[:4], y[:4], names, (0.5,), (0.5,))


def rows(images: np.ndarray) -> list[int]:
    return (images.reshape(-1, 4).astype(np.int64) @ 256 ** np.arange(4)).tolist()


@pytest.mark.parametrize(
    ("total", "expected"), [(50_000, 5_000), (20_000, 2_000), (5_000, 1_000), (1_437, 1_237)]
)
def test_proxy_split_has_the_size_promised(total: int, expected: int, seed: int) -> None:
    dataset = striped(total, 7, seed)
    split = proxy_split(dataset, seed)
    train, validation = rows(split.x_train), rows(split.x_validation)
    assert len(train) + len(validation) == expected
    assert len(set(train) | set(validation)) == expected  # none twice, none in both
    assert np.array_equal(dataset.y_train[train], split.y_train)
    assert np.array_equal(dataset.y_train[validation], split.y_validation)
    share = np.bincount(dataset.y_train) / total
    assert np.abs(np.bincount(split.y_validation) / len(validation) - share).max() < 0.01
    assert len(validation) == round(expected / 4)


@pytest.mark.parametrize(
    ("total", "held_out"), [(300_000, 10_000), (20_000, 2_000), (1_437, 200), (300, 60), (4, 0)]
)
def test_no_training_sees_the_images_by_which_networks_are_compared(
    total: int, held_out: int, seed: int
) -> None:
    dataset = striped(total, 3, seed)
    split = final_split(dataset)
    train, judging = rows(split.x_train), rows(split.x_validation)
    assert len(judging) == held_out
    assert sorted(train + judging) == list(range(total))
    assert np.array_equal(dataset.y_train[judging], split.y_validation)
    assert np.array_equal(dataset.y_train[train], split.y_train)
    share = np.bincount(dataset.y_train) / total
    if held_out:
        assert np.abs(np.bincount(split.y_validation) / held_out - share).max() < 0.02
    trials = proxy_split(dataset, seed)
    assert not {*rows(trials.x_train), *rows(trials.x_validation)} & set(judging)


def test_proxy_split_follows_its_seed(seed: int) -> None:
    dataset = striped(4_000, 3, seed)
    first, again, other = (proxy_split(dataset, s) for s in (seed, seed, seed + 1))
    assert np.array_equal(first.x_train, again.x_train)
    assert not np.array_equal(first.x_train, other.x_train)


def test_a_class_with_one_image_stays_in_training(seed: int) -> None:
    dataset = striped(1_000, 2, seed)
    dataset.y_train[0] = 2
    split = proxy_split(dataset, seed)
    assert (split.y_train == 2).sum() == 1


def test_rare_classes_are_trained_and_judged(seed: int) -> None:
    dataset = striped(8_000, 3, seed)
    rare = np.random.default_rng(seed).permutation(8_000)[:4]
    dataset.y_train[rare] = 3
    split = proxy_split(dataset, seed)
    assert len(split.y_train) + len(split.y_validation) == 1_000
    left = 4 - (final_split(dataset).y_validation == 3).sum()
    assert (split.y_train == 3).sum() == left - 2  # one more stays unseen
    assert (split.y_validation == 3).sum() == 1
    some = limited(replace(dataset, class_names=tuple("abcd")), 100)
    assert len(some.y_train) == 100
    assert np.bincount(some.y_train).tolist()[3] == 2
    assert np.ptp(np.bincount(some.y_train)[:3]) < 6


# ------------------------------------------------------------------------------ bad input


def change(**values: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | values


def at(key: str, row: int, value: Any) -> Callable[[Arrays], Arrays]:
    def spoil(arrays: Arrays) -> Arrays:
        changed = np.array(arrays[key])
        changed[row] = value
        return arrays | {key: changed}

    return spoil


def as_type(key: str, dtype: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: arrays[key].astype(dtype)}


def nan_at(key: str, row: int) -> Callable[[Arrays], Arrays]:
    def spoil(arrays: Arrays) -> Arrays:
        changed = arrays[key].astype(np.float32)
        changed[row] = np.nan
        return arrays | {key: changed}

    return spoil


BAD_ARRAYS = {
    "no labels": (lambda a: {k: v for k, v in a.items() if k != "y_train"}, "lacks y_train"),
    "no test": (lambda a: {"x_train": a["x_train"], "y_train": a["y_train"]}, "x_test"),
    "float images": (as_type("x_train", np.float32), "x_train holds float32"),
    "wide integers": (as_type("x_test", np.int64), "x_test holds int64"),
    "bool images": (as_type("x_train", np.bool_), "x_train holds bool"),
    "NaN in images": (nan_at("x_train", 11), "NaN or infinity at row 11"),
    "NaN in labels": (nan_at("y_train", 3), "y_train holds NaN at row 3"),
    "float labels": (as_type("y_train", np.float64), "y_train holds float64"),
    "text labels": (change(y_test=np.array(["a"] * 20)), "labels must be integers"),
    "one-hot labels": (change(y_train=np.eye(40, 4, dtype=int)), r"must be \(n,\)"),
    "too few labels": (change(y_train=np.arange(39) % 4), "40 images and 39 labels"),
    "no images": (change(x_train=np.zeros((0, 6, 5, 3), np.uint8)), "x_train is empty"),
    "empty labels": (change(y_test=np.zeros(0, int)), "y_test is empty"),
    "flat images": (change(x_train=np.zeros((40, 90), np.uint8)), r"has shape \(40, 90\)"),
    "channels first": (change(x_train=np.zeros((40, 3, 6, 50), np.uint8)), "channels come last"),
    "colour channels first": (
        change(x_train=np.zeros((40, 3, 12, 12), np.uint8)), r"save x_train.transpose\(0, 2, 3",
    ),
    "a grey channel first": (
        change(x_train=np.zeros((40, 1, 8, 8), np.uint8)), "looks like channels first",
    ),
    "validation without labels": (
        change(y_validation=np.arange(4), x_validation=np.zeros((5, 6, 5, 3), np.uint8)),
        "5 images and 4 labels for validation",
    ),
    "labels without validation": (change(y_validation=np.arange(4)), "lacks x_validation"),
    "other size": (change(x_test=np.zeros((20, 7, 5, 3), np.uint8)), "6x5x3, test images 7x5x3"),
    "negative label": (at("y_train", 5, -1), "-1 at row 5"),
    "label of no class": (at("y_test", 6, 4), "4 at row 6, the classes are 0 to 3"),
    "huge label": (at("y_train", 6, 2**40), "at row 6, which is no class index"),
    "one class": (change(y_train=np.zeros(40, int), y_test=np.zeros(20, int)), "one class only"),
    "a class without images": (
        change(class_names=np.array(["a", "b", "c", "d", "empty"])),
        r"class 4 \(empty\) has no training images",
    ),
    "too few names": (change(class_names=np.array(["a", "b", "c"])), "classes are 0 to 2"),
    "the same name twice": (change(class_names=np.array(["a", "b", "a", "d"])), "given twice"),
    "names that are numbers": (change(class_names=np.arange(4)), "must be a list of texts"),
    "pickled images": (
        change(x_train=np.array([{"a": 1}] * 40, dtype=object)),
        "'x_train' holds Python objects",
    ),
    "pickled names": (
        change(class_names=np.array(["a", "b", None, "d"], dtype=object)),
        "'class_names' holds Python objects",
    ),
    "a name that is none": (change(name=np.arange(3)), "name must be one text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_explained(case: str, tmp_path: Path, arrays: Arrays) -> None:
    spoil, message = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=message) as caught:
        load(saved(tmp_path / "bad.npz", spoil(arrays)))
    explained(caught.value, "bad.npz")


def explained(error: UserError, place: str) -> None:
    """One sentence that names the file."""
    text = str(error)
    assert place in text
    assert "\n" not in text
    assert len(text) < 400


BAD_ENCODED = {
    "no picture": (at("train_bytes", slice(0, 30), 0), "train image 0 cannot be"),
    "offsets beyond the end": (at("train_offsets", -1, 10**9), "train_offsets at row 39"),
    "offsets that fall": (at("train_offsets", 7, 0), "train_offsets at row 6"),
    "negative offset": (at("test_offsets", 0, -5), "test_offsets at row 0"),
    "float offsets": (as_type("test_offsets", np.float64), "n \\+ 1 integers"),
    "bytes as integers": (as_type("train_bytes", np.int32), "flat array of uint8"),
    "one offset too few": (lambda a: a | {"train_offsets": a["train_offsets"][:-1]}, "39 images"),
}


@pytest.mark.parametrize("case", BAD_ENCODED)
def test_bad_encoded_images_are_explained(case: str, tmp_path: Path, arrays: Arrays) -> None:
    spoil, message = BAD_ENCODED[case]
    with pytest.raises(UserError, match=message) as caught:
        load(saved(tmp_path / "bad.npz", spoil(encoded(arrays))))
    explained(caught.value, "bad.npz")


@pytest.mark.parametrize("spoil", ["cut", "scrambled", "size"])
def test_one_bad_picture_is_named_by_its_row(
    spoil: str, tmp_path: Path, arrays: Arrays, seed: int
) -> None:
    row = int(np.random.default_rng(seed).integers(1, 20))
    pictures = [jpeg(pixels, kind="PNG") for pixels in arrays["x_test"]]
    if spoil == "cut":
        pictures[row] = pictures[row][:-25]
    elif spoil == "scrambled":
        pictures[row] = b"\x00" * 40 + pictures[row][40:]
    else:
        pictures[row] = jpeg(np.zeros((9, 9, 3), np.uint8))
    content = encoded(arrays)
    content["test_bytes"] = np.frombuffer(b"".join(pictures), np.uint8)
    content["test_offsets"] = np.cumsum([0, *map(len, pictures)])
    with pytest.raises(UserError, match=f"test image {row} cannot be used") as caught:
        load(saved(tmp_path / "bad.npz", content))
    explained(caught.value, "bad.npz")


def test_files_that_are_no_npz_are_named(tmp_path: Path, arrays: Arrays) -> None:
    good = tmp_path / "good.npz"
    saved(good, arrays)
    bad = tmp_path / "bad.npz"
    contents = {
        "empty": b"",
        "text": b"hello",
        "cut": good.read_bytes()[:-300],
        "cut early": good.read_bytes()[:100],
        "a pickle": pickle.dumps(arrays),
        "spoilt": good.read_bytes()[:400] + b"\xff" * 300 + good.read_bytes()[700:],
    }
    for case, content in contents.items():
        bad.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load(f"npz:{bad}")
        explained(caught.value, "bad.npz")
        assert case != "a pickle" or "pickle" in str(caught.value)
    with open(bad, "wb") as file:
        np.save(file, arrays["x_train"])
    with pytest.raises(UserError, match="single array"):
        load(f"npz:{bad}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist", "unknown data 'mnist': use one of digits"),
        ("", "unknown data ''"),
        ("Digits", "unknown data"),
        ("digits:x", "unknown data"),
        ("npz", "unknown data 'npz'"),
        ("npz:", "names no path"),
        ("npz:/nowhere/at/all.npz", "does not exist"),
        ("imagefolder:", "names no path"),
        ("imagefolder:/nowhere/at/all", "is no folder"),
        ("imagefolder:.@2", "image size 2 is out of range"),
        ("imagefolder:.@5000", "out of range"),
        ("imagefolder:nowhere@²", "is no folder"),
    ],
)
def test_bad_names_are_explained(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(spec)


def test_a_path_alone_is_told_its_kind(tmp_path: Path) -> None:
    (tmp_path / "images.npz").touch()
    with pytest.raises(UserError, match=f"write imagefolder:{tmp_path}"):
        load(str(tmp_path))
    with pytest.raises(UserError, match=f"write npz:{tmp_path / 'images.npz'}"):
        load(str(tmp_path / "images.npz"))


def test_bad_image_folders_are_explained(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = tmp_path / "set"
    root.mkdir()
    spec = f"imagefolder:{root}@8"
    with pytest.raises(UserError, match="holds 0 class folders"):
        load(spec)
    write_folder(root / "train", rng, 3, "a")
    with pytest.raises(UserError, match="holds 1 class folder:"):
        load(spec)
    (root / "train" / "b").mkdir()
    with pytest.raises(UserError, match="b holds no images"):
        load(spec)
    Image.new("RGB", (5, 5)).save(root / "train" / "b" / "0.png")
    write_folder(root / "val", rng, 1, "ac")
    with pytest.raises(UserError, match=r"pictures of 'c', a class that .* lack"):
        load(spec)
    (root / "val" / "c").rename(root / "val" / "b")
    load(spec)
    broken = root / "train" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=r"1\.png cannot be used"):
        load(spec)
    broken.write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png cannot be used: it is empty"):
        load(spec)
    broken.unlink()
    broken.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"1\.png cannot be used: there is no such file"):
        load(spec)
    broken.unlink()
    (root / "val" / "b").rename(root / "val" / os.fsdecode(b"b\xe9"))
    (root / "train" / "b").rename(root / "train" / os.fsdecode(b"b\xe9"))
    with pytest.raises(UserError, match="has no UTF-8 name: rename it"):
        load(spec)


def test_one_image_a_class_is_too_little_to_divide(tmp_path: Path, seed: int) -> None:
    write_folder(tmp_path / "flat", np.random.default_rng(seed), 1)
    with pytest.raises(UserError, match="none can be kept for a test"):
        load(f"imagefolder:{tmp_path / 'flat'}")
