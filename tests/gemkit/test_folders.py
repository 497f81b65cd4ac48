"""What a folder means: every convention is read, every doubt refused, nothing dropped unsaid."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from gemkit.data import folder_and_size, load, proxy_split
from gemkit.errors import UserError
from gemkit.folder_tree import SKIP_LIST
from gemkit.folders import FolderPlan, read_folder
from gemkit.identical import identical
from gemkit.pictures import reads_heif


def fill(folder: Path, count: int, first: int = 0, suffix: str = ".bmp") -> None:
    """Pictures that differ from all others with another number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        mark = hash((str(folder), number)) % 2**24
        colour = (mark & 255, mark >> 8 & 255, mark >> 16)
        path = folder / f"{number}{suffix}"
        Image.new("RGB", (4, 4), colour).save(path, "BMP")


def counts(plan: FolderPlan) -> dict[str, int]:
    return {name: len(part) for name, part in plan.parts.items()}


def told(plan: FolderPlan) -> int:
    """Files that the plan accounts for."""
    return sum(counts(plan).values()) + len(plan.copies) + sum(len(s.files) for s in plan.skipped)


TRAINING = ["train", "Train", "TRAIN", "training", "train_images", "Training Set", "train2017"]
VALIDATION = ["val", "valid", "Validation", "DEV", "eval", "val_images", "validation-set"]
TEST = ["test", "Testing", "TEST", "test_images", "testset", "Test-Data"]
TOOLS = [".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", ".git", "$RECYCLE.BIN"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    training=st.sampled_from(TRAINING),
    validation=st.none() | st.sampled_from(VALIDATION),
    test=st.none() | st.sampled_from(TEST),
    classes=st.lists(
        st.sampled_from(["cat", "dog", "train", "test", "val", "Äpfel", "0", "a b", "x.y"]),
        min_size=2, max_size=4, unique=True,
    ),
    hidden=st.sampled_from(TOOLS),
    other=st.sampled_from(["notes.txt", "labels.csv", "clip.mp4"]),
    suffix=st.sampled_from([".jpg", ".JPE", ".jfif", ".png", ".pnm", ".avif", ""]),
    data=st.data(),
)  # fmt: skip
def test_every_layout_of_parts_is_read_and_every_file_accounted_for(
    training: str,
    validation: str | None,
    test: str | None,
    classes: list[str],
    hidden: str,
    other: str,
    suffix: str,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("set")
    made = 0
    for part, count in ((training, 6), (validation, 3), (test, 2)):
        for name in classes if part else ():
            fill(root / str(part) / name, count, suffix=suffix)
            made += count
    chosen = root / training / data.draw(st.sampled_from(classes))
    shutil.copytree(chosen, chosen / hidden)
    (chosen / other).write_text("text")
    plan = read_folder(root)
    assert plan.class_names == tuple(sorted(classes))
    judging = "test" if test or validation else ""
    found = counts(plan)
    if test and validation:
        assert found == {"training": 6 * len(classes), "validation": 3 * len(classes),
                         "test": 2 * len(classes)}  # fmt: skip
    elif judging:
        assert found == {"training": 6 * len(classes), "test": (2 if test else 3) * len(classes)}
    else:
        assert found["training"] + found["test"] == 6 * len(classes)
    # And the text, and the copies in the tool's folder, which need a name to be told.
    assert told(plan) == made + 1 + (6 if suffix else 0)
    for part in plan.parts.values():
        for path, label in zip(part.files, part.labels, strict=True):
            assert path.parent.name == plan.class_names[label]
    assert ("6 hidden or a tool's, 1 ." if suffix else "1 file skipped: 1 .") in plan.line()


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        fill(tmp_path / name, 5)
    plan = read_folder(tmp_path)
    assert plan.class_names == ("bus", "car", "train")
    assert "train/ is taken for a class" in plan.line()


def test_pictures_may_lie_one_folder_deeper_in_every_class(tmp_path: Path) -> None:
    layout(tmp_path, cat__images=5, dog__images=5)
    plan = read_folder(tmp_path)
    assert plan.class_names == ("cat", "dog")
    assert "pictures of folders inside classes are taken too: 'cat/images'" in plan.line()


def layout(root: Path, **folders: int) -> None:
    for name, count in folders.items():
        fill(root / name.replace("__", "/"), count)


REFUSED = {
    "a repository": (
        {"Dataset__a": 3, "Dataset__b": 3, "Examples__a": 2, "Examples__b": 2},
        "'Dataset', 'Examples' hold folders only",
    ),
    "parts inside classes": (
        {"a__train": 3, "a__test": 3, "b__train": 3, "b__test": 2}, "hold folders only",
    ),
    "parts without classes": ({"train": 3, "test": 3}, "hold pictures but no class folders"),
    "classes beside a test": (
        {"a": 3, "b": 3, "test__a": 1, "test__b": 1}, "test/ holds folders named like its neigh",
    ),
    "classes and a copy of them": (
        {"a": 3, "b": 3, "backup__a": 3, "backup__b": 3}, "backup/ holds folders named like",
    ),
    "a training part and a class": (
        {"train__a": 3, "train__b": 3, "c": 3}, "train/ looks like a training part and c/ like",
    ),
    "two training parts": (
        {"train1__a": 3, "train1__b": 3, "train2__a": 3, "train2__b": 3}, "both mean training",
    ),
    "a class only to judge": (
        {"train__cat": 3, "train__dog": 3, "test__cat": 1, "test__Dogs": 1}, "is 'dog' meant",
    ),
    "one class": ({"a": 3}, "holds 1 class folder:"),
    "one part of one class": ({"train__a": 3, "test__a": 3}, "holds 1 class folder:"),
    "kinds of kinds": (
        {"pets__cat": 2, "pets__dog": 2, "cars__bus": 2, "cars__taxi": 2}, "hold folders only",
    ),
    "an empty class": ({"a": 3, "b": 0}, "b holds no images: fill it or remove it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_mean_two_things_is_refused(case: str, tmp_path: Path) -> None:
    folders, sentence = REFUSED[case]
    layout(tmp_path / "set", **folders)
    with pytest.raises(UserError, match=sentence) as caught:
        read_folder(tmp_path / "set")
    assert str(tmp_path / "set") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrappers_and_a_common_word_are_seen_through(tmp_path: Path) -> None:
    layout(tmp_path, seg_train__seg_train__sea=4, seg_train__seg_train__wood=4,
           seg_test__seg_test__sea=2, seg_test__seg_test__wood=2, seg_pred=3)  # fmt: skip
    plan = read_folder(tmp_path)
    assert counts(plan) == {"training": 8, "test": 4}
    assert "3 in seg_pred/, which is no part" in plan.line()
    assert "read from seg_train/seg_train/" in plan.line()
    layout(tmp_path / "zip", photos__train__a=3, photos__train__b=3)
    assert read_folder(tmp_path / "zip").class_names == ("a", "b")


def test_pictures_for_nobody_to_judge_by_are_told(tmp_path: Path) -> None:
    layout(tmp_path, train__a=10, train__b=10, test=7)
    plan = read_folder(tmp_path)
    assert counts(plan) == {"training": 16, "test": 4}
    assert "7 in test/, which has no class folders" in plan.line()


def test_a_test_part_may_lack_a_class(tmp_path: Path) -> None:
    layout(tmp_path, train__a=3, train__b=3, test__a=2)
    for _ in range(2):
        plan = read_folder(tmp_path)
        assert counts(plan) == {"training": 6, "test": 2}
        assert "no test images of 'b'" in plan.line()
        (tmp_path / "test" / "b").mkdir(exist_ok=True)


def test_the_same_file_does_not_train_and_judge(tmp_path: Path) -> None:
    layout(tmp_path, train__a=5, train__b=5, val__a=3, val__b=3, test__a=2, test__b=2)
    shutil.copy(tmp_path / "test/a/0.bmp", tmp_path / "train/b/leak.bmp")
    shutil.copy(tmp_path / "test/a/1.bmp", tmp_path / "val/a/leak.bmp")
    shutil.copy(tmp_path / "val/b/0.bmp", tmp_path / "train/b/other.bmp")
    shutil.copy(tmp_path / "train/a/0.bmp", tmp_path / "train/a/twice.bmp")  # harmless
    plan = read_folder(tmp_path)
    assert counts(plan) == {"training": 11, "validation": 6, "test": 4}
    left_out = {str(copy.left_out.relative_to(tmp_path)) for copy in plan.copies}
    assert left_out == {"train/b/leak.bmp", "val/a/leak.bmp", "train/b/other.bmp"}
    assert "3 left out of training that judge as well" in plan.line()


def test_copies_of_a_divided_folder_stay_on_one_side(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / name, 20)
        for number in range(20):
            shutil.copy(tmp_path / name / f"{number}.bmp", tmp_path / name / f"{number} (1).bmp")
    plan = read_folder(tmp_path)
    trained = {path.read_bytes() for path in plan.training.files}
    assert not trained & {path.read_bytes() for path in plan.test.files}
    assert plan.copies


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(contents=st.lists(st.binary(max_size=3), max_size=12), long=st.booleans())
def test_identical_files_are_found(
    contents: list[bytes], long: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Beside comparing all with all; long ones differ in the middle alone."""
    folder = tmp_path_factory.mktemp("files")
    if long:
        contents = [bytes(9000) + content.ljust(3) + bytes(9000) for content in contents]
    files = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    expected = {
        frozenset(p for p, c in zip(files, contents, strict=True) if c == one) for one in contents
    }
    assert {frozenset(group) for group in identical(files)} == {g for g in expected if len(g) > 1}


def test_what_is_identical_is_kept_for_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("gemkit.identical.KEPT_FROM", 3)
    files = [tmp_path / name for name in "abc"]
    for path in files:
        path.write_bytes(b"same" if path.name != "b" else b"else")
    for _ in range(2):
        assert identical(files) == [[files[0], files[2]]]
    (kept,) = (tmp_path / "data" / "identical").iterdir()
    kept.write_text("[[7]]")  # damaged
    assert identical(files) == [[files[0], files[2]]]
    files[2].write_bytes(b"more")
    assert identical(files) == []


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    layout(tmp_path / "set", a=4, b=4)
    fill(tmp_path / "elsewhere", 6, first=50)
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b" / "up").symlink_to(tmp_path / "set")
    plan = read_folder(tmp_path / "set")
    assert plan.class_names == ("a", "b", "c")
    assert "b/up/ links back" in plan.line()
    assert "'a/more'" in plan.line()
    assert len(plan.training) + len(plan.test) + len(plan.copies) == 4 + 4 + 6 + 6


def test_files_that_no_format_is_known_of_are_told(tmp_path: Path) -> None:
    layout(tmp_path, a=4, b=4)
    (tmp_path / "a" / "x.cr2").write_bytes(b"raw")
    (tmp_path / "a" / "y.heic").write_bytes(b"heic")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"")
    line = read_folder(tmp_path).line()
    assert "1 .cr2" in line
    assert (".heic (pillow-heif reads them, install it)" in line) == (not reads_heif())
    for path in (tmp_path / "b").glob("*.bmp"):
        path.rename(path.with_suffix(".nef"))
    with pytest.raises(UserError, match=r"no images that can be read \(\d files of"):
        read_folder(tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_listed_pictures_are_left_out(mark: bytes, tmp_path: Path) -> None:
    layout(tmp_path, a=4, b=4)
    (tmp_path / SKIP_LIST).write_bytes(mark + b"a/0.bmp\r\nb/2.bmp\r\n")
    plan = read_folder(tmp_path)
    assert sum(counts(plan).values()) == 6
    assert f"2 listed in {SKIP_LIST}" in plan.line()


def test_a_validation_part_judges_trials(tmp_path: Path) -> None:
    layout(tmp_path, train__a=9, train__b=9, valid__a=4, valid__b=4, test__a=2, test__b=2)
    data = load(f"imagefolder:{tmp_path}@8")
    split = proxy_split(data, 0)
    assert len(split.y_train) == 18
    assert data.x_validation is not None
    assert sorted(map(bytes, split.x_validation)) == sorted(map(bytes, data.x_validation))
    assert data.identity is not None
    assert data.identity.validation == (4, 4)


def test_a_folder_may_end_with_a_number(tmp_path: Path) -> None:
    layout(tmp_path, **{"set@2024__a": 3, "set@2024__b": 3})
    assert folder_and_size(f"{tmp_path}/set@2024") == (tmp_path / "set@2024", 64)
    assert folder_and_size(f"{tmp_path}/set@2024@32") == (tmp_path / "set@2024", 32)
    (tmp_path / "set").mkdir()
    assert folder_and_size(f"{tmp_path}/set@32") == (tmp_path / "set", 32)
    with pytest.raises(UserError, match="out of range"):
        folder_and_size(f"{tmp_path}/set@2025")


def test_all_unusable_pictures_are_named_at_once(tmp_path: Path) -> None:
    layout(tmp_path / "set", train__a=9, train__b=9, test__a=2, test__b=2)
    bad = ["train/a/1.bmp", "train/a/2.bmp", "train/b/5.bmp", "test/b/1.bmp"]
    for number, name in enumerate(bad):  # not the same files
        path = tmp_path / "set" / name
        path.write_bytes(path.read_bytes()[: 60 + number])
    (tmp_path / "set" / "train/b/6.bmp").unlink()
    os.symlink("nowhere", tmp_path / "set" / "train/b/6.bmp")
    with pytest.raises(UserError, match="5 pictures cannot be used") as caught:
        load(f"imagefolder:{tmp_path / 'set'}@8")
    for name in [*bad, "train/b/6.bmp (there is no such file)"]:
        assert name in str(caught.value)
    assert "--skip-unusable" in str(caught.value)


def test_names_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    """macOS writes accents apart: both ways mean one class."""
    layout(tmp_path, **{"train__caf\u00e9": 3, "train__tea": 3, "test__cafe\u0301": 2})
    plan = read_folder(tmp_path)
    assert np.bincount(plan.test.labels).tolist() == [2]


NAMES = st.sampled_from(
    [
        "train",
        "Test",
        "val",
        "a",
        "b",
        "c",
        "set",
        "images",
        ".git",
        "@eaDir",
        "seg_train",
        "seg_test",
    ]
)
CLASSES = st.tuples(
    st.integers(0, 1), st.dictionaries(NAMES, st.integers(1, 3), min_size=2, max_size=4)
)
TREES = st.recursive(
    st.integers(0, 3) | CLASSES,
    lambda inner: st.tuples(st.integers(0, 1), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=6,
)


def grow(folder: Path, tree: object, made: list[Path]) -> None:
    """Write a tree of folders; a number is so many pictures and, if any, a text beside them."""
    folder.mkdir(exist_ok=True)
    count, inner = tree if isinstance(tree, tuple) else (tree, {})
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(f"{folder} {number}".encode())
        made.append(path)
    for name, branch in inner.items():
        grow(folder / name, branch, made)


def _read(root: Path) -> tuple[str, FolderPlan | None]:
    try:
        return "", read_folder(root)
    except UserError as error:
        return str(error), None


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES)
def test_any_tree_is_accounted_for_or_refused(
    tree: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    made: list[Path] = []
    grow(root, tree, made)
    refusal, plan = _read(root)
    event("refused" if plan is None else "read")
    if plan is None:
        assert str(root) in refusal
        assert "\n" not in refusal
        return
    used = [path for part in plan.parts.values() for path in part.files]
    left = [path for some in plan.skipped for path in some.files]
    assert sorted([*used, *left]) == sorted(made)
    assert len(set(plan.training.labels.tolist())) == len(plan.class_names) >= 2
    for path in used:
        assert not {".git", "@eaDir"} & set(path.relative_to(root).parts)
