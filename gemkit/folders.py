"""What a folder of images means: read once into a plan, or refused with a sentence.

    plan = read_folder(Path("photos"))
    print(plan.line())      # 3,068 images of 10 classes for training, 372 test (test/)

Either the folder holds one folder of images a class, or a training part and perhaps a validation
and a test part that do: `train`, `Training`, `train_images`; `val`, `valid`, `dev`, `eval`;
`test`, `testing` and so on, in any case. What could mean two things is refused, what is left out
is listed.
"""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemkit.errors import UserError
from gemkit.folder_tree import Folder, Scan, Skipped
from gemkit.identical import identical
from gemkit.pictures import HEIF_SUFFIXES, reads_heif
from gemkit.splits import Labels, test_part

_SPLITS = {
    "training": ("train", "training", "trn", "trainval"),
    "validation": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
_GENERIC = ("images", "image", "imgs", "img", "photos", "pictures", "dataset", "data", "set")


@dataclass(frozen=True)
class Part:
    """The images of one split.

    Attributes:
        folder: the name of the folder they lie in; empty where they were drawn from all images.
        files: in a fixed order.
        labels: (n,) indices into the plan's classes.
    """

    folder: str
    files: tuple[Path, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Copy:
    """An image that is left out because a part that judges holds the same file."""

    left_out: Path
    same_as: Path


@dataclass(frozen=True)
class FolderPlan:
    """What a folder's images are used for, and which are not.

    Attributes:
        root: the folder.
        class_names: names of the training part's folders, in order.
        training, validation, test: no file of one is in another; validation may be missing.
        skipped: what is left out, by reason.
        copies: images that would have been in two parts.
        remarks: what else should be known, sentences without full stop.
    """

    root: Path
    class_names: tuple[str, ...]
    training: Part
    validation: Part | None
    test: Part
    skipped: tuple[Skipped, ...]
    copies: tuple[Copy, ...]
    remarks: tuple[str, ...]

    @property
    def parts(self) -> dict[str, Part]:
        """`training`, `validation` if there is one, and `test`."""
        known = {"training": self.training, "validation": self.validation, "test": self.test}
        return {name: part for name, part in known.items() if part is not None}

    def line(self) -> str:
        """The plan in one line."""
        validation = "" if self.validation is None else f"{len(self.validation):,} validation, "
        where = f"{self.test.folder}/" if self.test.folder else "one image in five"
        said = [
            f"{len(self.training):,} images of {len(self.class_names)} classes for training, "
            f"{validation}{len(self.test):,} test ({where})"
        ]
        if self.copies:
            said.append(f"{len(self.copies):,} left out of training that judge as well")
        total = sum(len(some.files) for some in self.skipped)
        if total:
            reasons = ", ".join(f"{len(some.files):,} {some.reason}" for some in self.skipped)
            said.append(f"{total:,} file{'' if total == 1 else 's'} skipped: {reasons}")
        return "; ".join([*said, *self.remarks])


def read_folder(root: Path) -> FolderPlan:
    """Read what a folder means.

    Raises:
        UserError: it has fewer than two classes, could mean two things, or cannot be read.
    """
    root = Path(root)
    scan = Scan(root)
    tree = _unwrapped(scan, scan.folder(root), ())
    training, judging = _splits(scan, tree)
    classes = _classes(scan, training)
    names = tuple(classes)
    labels = {unicodedata.normalize("NFC", name): label for label, name in enumerate(names)}
    if len(labels) < len(names):
        raise UserError(f"{training.path} holds two class folders whose names look the same")
    parts = {"training": _part(training, classes.items(), labels)}
    for split, folder in judging.items():
        parts[split] = _part(folder, _known_classes(scan, folder, labels), labels)
    _divide(root, parts)
    copies = _without_copies(scan, names, parts)
    _remark_lacking(scan, names, parts)
    return FolderPlan(
        root,
        names,
        parts["training"],
        parts.get("validation"),
        parts["test"],
        scan.skipped(),
        copies,
        tuple(scan.remarks),
    )


# ------------------------------------------------------------------- parts and classes


def _unwrapped(scan: Scan, folder: Folder, names: Sequence[str]) -> Folder:
    """The folder in which the parts or classes lie, where only wrappers are around it.

    Args:
        names: of the classes, if they are known: such a folder is no wrapper.
    """
    while not folder.pictures and len(filled := folder.filled()) == 1:
        (inner,) = filled
        if inner.pictures or inner.name in names or len(folder.folders) > 1:
            break
        split, rest = _split_of(inner.name)
        if folder.path == scan.root and split and not rest:  # a part alone
            break
        if len(inner.filled()) == 1 and inner.filled()[0].pictures:
            break  # one class alone
        folder = inner
        scan.remarks.append(f"read from {scan.relative(inner.path)}/")
    return folder


def _split_of(name: str) -> tuple[str, str]:
    """Which part a folder's name means (`training`, ... or nothing), and what else it says.

    `train`, `Training_Images` and `train2017` mean a part; `seg_train` says `seg` besides.
    """
    words = [word for word in re.split(r"[\W\d_]+", name.casefold()) if word]
    words = [_without_generic(word) for word in words]
    words = [word for word in words if word]
    known = {word: split for split, words_of in _SPLITS.items() for word in words_of}
    if "".join(words) in known:
        return known["".join(words)], ""
    meant = [word for word in words if word in known]
    if len(meant) != 1:
        return "", ""
    return known[meant[0]], " ".join(word for word in words if word != meant[0])


def _without_generic(word: str) -> str:
    for generic in _GENERIC:
        if word.endswith(generic):
            return word.removesuffix(generic)
    return word


def _splits(scan: Scan, tree: Folder) -> tuple[Folder, dict[str, Folder]]:
    """The folder of the training classes, and those of `validation` and `test`.

    Where the tree has no parts, it is the training part itself.
    """
    groups: dict[str, dict[str, list[Folder]]] = defaultdict(lambda: defaultdict(list))
    for folder in tree.folders:
        split, rest = _split_of(folder.name)
        if split and folder.filled():
            groups[rest][split].append(folder)
    for rest, group in sorted(groups.items()):
        pure = [folder for folder in group.get("training", ()) if not folder.pictures]
        if (pure or ("training" in group and len(group) > 1)) and (not rest or len(group) > 1):
            break
    else:
        _check_classes_only(tree, groups.get("", {}))
        return tree, {}
    for split, folders in group.items():
        if len(folders) > 1:
            several = " and ".join(f"{folder.name}/" for folder in folders)
            raise UserError(f"{tree.path}: {several} both mean {split}: put them into one folder")
    parts = {split: folders[0] for split, folders in group.items()}
    _skip_beside(scan, tree, list(parts.values()), len(parts) > 1)
    training = _unwrapped(scan, parts.pop("training"), ())
    names = [folder.name for folder in training.filled()]
    return training, {
        split: _unwrapped(scan, parts[split], names)
        for split in ("validation", "test")
        if split in parts
    }


def _check_classes_only(tree: Folder, parts: dict[str, list[Folder]]) -> None:
    """Refuse folders that look like parts where there is no training part.

    Raises:
        UserError: so it is.
    """
    filled = tree.filled()
    meant = {_split_of(folder.name) for folder in filled}
    alike = len({rest for _, rest in meant}) == 1 and all(split for split, _ in meant)
    if alike and len(meant) > 1:
        named = " and ".join(f"{folder.name}/" for folder in filled)
        raise UserError(
            f"{tree.path}: {named} hold pictures but no class folders: each needs one folder of "
            "images a class"
        )
    names = {folder.name for folder in filled if folder.pictures}
    for folder in filled:
        inner = sorted(names & {one.name for one in folder.filled()} - {folder.name})
        if not folder.pictures and inner:
            raise UserError(
                f"{tree.path}: {folder.name}/ holds folders named like its neighbours "
                f"({_quoted(inner)}), so it is no class: move the classes into train/ if it is a "
                "part to judge on, or move it away"
            )
    inside = {tuple(one.name for one in folder.filled()) for folder in filled}
    wrapped = all(len(some) == 1 and not _split_of(some[0])[0] for some in inside)
    if wrapped and len(inside) == 1:  # cat/images/..., dog/images/...
        return
    if filled and not any(folder.pictures for folder in filled):
        first = filled[0]
        raise UserError(
            f"{tree.path}: {_quoted([one.name for one in filled])} hold folders only, no pictures: "
            "one folder of images a class is needed, or train/ and test/ with one a class; perhaps "
            f"imagefolder:{first.path} is meant"
        )


def _skip_beside(scan: Scan, tree: Folder, parts: list[Folder], sure: bool) -> None:
    """Note what lies beside the parts; refuse it where it might be classes.

    Args:
        sure: there are two parts, so that they are no classes.

    Raises:
        UserError: a training part alone lies beside folders of pictures.
    """
    for folder in tree.folders:
        if folder in parts:
            continue
        files = list(folder.all())
        split = _split_of(folder.name)[0]
        if split and not files:
            scan.remarks.append(f"{folder.name}/ holds no pictures")
        elif split and folder.pictures and not folder.filled():
            scan.skip(f"in {folder.name}/, which has no class folders", files)
        elif files and not sure:
            raise UserError(
                f"{tree.path}: {parts[0].name}/ looks like a training part and {folder.name}/ like "
                "a class beside it: move one of them away"
            )
        else:
            scan.skip(f"in {folder.name}/, which is no part", files)
    scan.skip("beside the parts", tree.pictures)


def _classes(scan: Scan, training: Folder) -> dict[str, Folder]:
    """The class folders of the training part by name, in order.

    Raises:
        UserError: there are fewer than two, one has no pictures, or a name is not UTF-8.
    """
    for folder in training.folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:  # of a disk with another encoding
            raise UserError(
                f"{training.path}: the class folder {folder.name!r} has no UTF-8 name: rename it"
            ) from None
    if len(training.folders) < 2:
        count = len(training.folders)
        loose = f" and {len(training.pictures):,} pictures" if training.pictures else ""
        raise UserError(
            f"{training.path} holds {count} class folder{'' if count == 1 else 's'}{loose}: "
            "at least two are needed, one folder of images a class"
        )
    nested = []
    for folder in training.folders:
        if _split_of(folder.name) in (("training", ""), ("validation", ""), ("test", "")):
            scan.remarks.append(f"{scan.relative(folder.path)}/ is taken for a class")
        if not any(folder.all()):
            raise UserError(_empty(scan, folder))
        nested += [scan.relative(inner.path) for inner in folder.filled()]
        scan.skip_others(folder)
    if nested:
        scan.remarks.append(f"pictures of folders inside classes are taken too: {_quoted(nested)}")
    scan.skip("beside the class folders", training.pictures)
    return {folder.name: folder for folder in training.folders}


def _empty(scan: Scan, folder: Folder) -> str:
    others = scan.others(folder)
    if not others:
        return f"{folder.path} holds no images: fill it or remove it"
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in others})
    heif = HEIF_SUFFIXES.intersection(suffixes) and not reads_heif()
    advice = "install pillow-heif to read these" if heif else "fill it or move it away"
    return (
        f"{folder.path} holds no images that can be read ({len(others):,} files of "
        f"{', '.join(suffixes[:5])}): {advice}"
    )


def _known_classes(scan: Scan, folder: Folder, labels: dict[str, int]) -> list[tuple[str, Folder]]:
    """The class folders of a part that judges.

    Raises:
        UserError: it has pictures of a class that the training part lacks.
    """
    found = []
    for inner in folder.filled():
        name = unicodedata.normalize("NFC", inner.name)
        if name not in labels:
            folded = {known.casefold(): known for known in labels}
            folded = {known.casefold(): known for known in labels}
            close = difflib.get_close_matches(name.casefold(), folded, 1)
            hint = f", is {folded[close[0]]!r} meant?" if close else ": remove it, or add it there"
            raise UserError(
                f"{folder.path} has pictures of {inner.name!r}, a class that the training images "
                f"lack{hint}"
            )
        found.append((name, inner))
    scan.skip("beside the class folders", folder.pictures)
    for _, inner in found:
        scan.skip_others(inner)
    return found


def _part(folder: Folder, classes: Iterable[tuple[str, Folder]], labels: dict[str, int]) -> Part:
    files: list[Path] = []
    found: list[int] = []
    for name, inner in classes:
        mine = sorted(inner.all())
        files += mine
        found += [labels[unicodedata.normalize("NFC", name)]] * len(mine)
    return Part(folder.name, tuple(files), np.array(found, dtype=np.int64))


# ------------------------------------------------------------------------- who judges


def _divide(root: Path, parts: dict[str, Part]) -> None:
    """Make sure of a test part: given, the validation part where it alone was given, or drawn.

    Raises:
        UserError: there is nothing to draw from.
    """
    if "test" in parts and len(parts["test"]):
        return
    parts.pop("test", None)
    if "validation" in parts and len(parts["validation"]):
        parts["test"] = parts.pop("validation")
        return
    parts.pop("validation", None)
    given = parts["training"]
    chosen = test_part(given.labels)
    if not chosen.any():
        raise UserError(f"{root} has one image a class: none can be kept for a test")
    parts["training"] = _rows(given, ~chosen)
    parts["test"] = _rows(Part("", given.files, given.labels), chosen)


def _rows(part: Part, rows: NDArray[np.bool_]) -> Part:
    files = tuple(part.files[row] for row in np.flatnonzero(rows))
    return Part(part.folder, files, part.labels[rows])


def _without_copies(scan: Scan, names: tuple[str, ...], parts: dict[str, Part]) -> tuple[Copy, ...]:
    """Leave files out of training that judge, and out of validation those of the test.

    A class that would lose all its training images keeps them, which is said.
    """
    order = [name for name in ("test", "validation", "training") if name in parts]
    place = {path: name for name in order for path in parts[name].files}
    same_as: dict[Path, Path] = {}
    for group in identical(place):
        group.sort(key=lambda path: order.index(place[path]))
        same_as |= {path: group[0] for path in group if place[path] != place[group[0]]}
    kept_classes: list[str] = []
    for name in order[1:]:
        part = parts[name]
        kept = np.array([path not in same_as for path in part.files], dtype=bool)
        if name == "training":
            lost = np.setdiff1d(part.labels, part.labels[kept])
            kept |= np.isin(part.labels, lost)
            kept_classes = [names[label] for label in lost]
        parts[name] = _rows(part, kept)
    if kept_classes:
        scan.remarks.append(
            f"every training image of {_quoted(kept_classes)} is a test image as well, so its "
            "accuracy says nothing"
        )
    if "validation" in parts and not len(parts["validation"]):
        del parts["validation"]
    used = {path for part in parts.values() for path in part.files}
    return tuple(Copy(path, same_as[path]) for path in sorted(same_as) if path not in used)


def _remark_lacking(scan: Scan, names: tuple[str, ...], parts: dict[str, Part]) -> None:
    """Say which classes nothing judges."""
    for split in ("validation", "test"):
        if split in parts:
            counts = np.bincount(parts[split].labels, minlength=len(names))
            lacking = [names[label] for label in np.flatnonzero(counts == 0)]
            if lacking:
                scan.remarks.append(f"no {split} images of {_quoted(lacking)}")


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
