"""What a run does with its teacher: it is found, judged, and its outputs are kept for the students.

`prepare` leaves in the run's folder `teacher/` what `gemkit.views.read_lessons` opens, and the
record `TeacherInfo` among the run's settings.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from gemkit import fine_tuning
from gemkit.budget import format_count
from gemkit.data import Dataset, held_out, larger_images, read_files
from gemkit.errors import UserError
from gemkit.files import data_folder, is_folder
from gemkit.machine import usable_cores
from gemkit.network import load_network
from gemkit.pictures import Images, selected
from gemkit.records import TEACHER_SETTING, DataInfo, TeacherInfo
from gemkit.splits import Labels
from gemkit.store import Run
from gemkit.teachers import Head, Teacher, fit_head, load_teacher, of_network
from gemkit.unlabelled import read_unlabelled
from gemkit.views import (
    affordable_views,
    bank_folder,
    make_bank,
    outputs_of,
    read_lessons,
    write_lessons,
)

from .. import formatting, zoo
from ..terminal.progress import bar

FOLDER = "teacher"
_HEAD_VIEWS = 4
_SOURCE = 1.5  # sides of the pictures that views are cut from, in sides of the teacher
_LATENCY_CALLS = 9
_STEP_IN_PASSES = 3  # forward, and backward for inputs and weights
_DOUBTFUL = 0.5  # share of the training labels


def prepare(
    run: Run,
    dataset: Dataset,
    data: str,
    name: str,
    unlabelled: Path | None,
    device: str,
    console: Console,
) -> Path:
    """Let a teacher see the views of all images; what it says is kept, and made once only.

    Args:
        data: what `dataset` was loaded from.
        name: of the teacher, see `find`.
        unlabelled: a folder of pictures without labels that join.

    Returns:
        the folder with the lessons.

    Raises:
        UserError: there is no such teacher, it does not suit the data, or the disk is full.
    """
    folder = run.path / FOLDER
    known = run.setting(TEACHER_SETTING, TeacherInfo)
    more = "" if unlabelled is None else str(Path(unlabelled).expanduser().absolute())
    if known is not None and (known.name, known.unlabelled) != (name, more):
        with_more = f" and the pictures of {known.unlabelled}" if known.unlabelled else ""
        raise UserError(
            f"{run.path} has the teacher {known.name}{with_more}: its networks are compared under "
            "one teacher, so use that, or search anew with another --out"
        )
    if known is not None:
        with contextlib.suppress(UserError):
            read_lessons(folder)
            return folder
    teacher = find(name, dataset, device)
    side = round(_SOURCE * teacher.side)
    training, test = larger_images(data, dataset, side)
    rows = np.delete(np.arange(len(dataset.y_train)), held_out(dataset))
    labels, sources = dataset.y_train[rows], [selected(training, rows)]
    if unlabelled is not None:
        sources.append(_without_labels(unlabelled, dataset, side, console))
    total = sum(map(len, sources))
    latency, views = _latency(teacher), affordable_views(total, dataset.input_shape)
    console.print(_plan(teacher, views, total, len(labels), latency))
    head, states = "", folder / "fine-tuning"
    if _is_tuned(teacher):
        with bar(console, "fine-tuning", 100) as advance:
            teacher, frozen = fine_tuning.fine_tuned(
                teacher,
                sources[0],
                labels,
                dataset.class_names,
                recipe=fine_tuning.RECIPE,
                device=device,
                checkpoint=states,
                progress=lambda now: advance(completed=int(100 * now.step / now.steps)),
            )
        head = f"fine-tuned on {len(labels):,} images, {_frozen(frozen)} before"
    bank = bank_folder(data_folder(), teacher, sources, dataset.input_shape)
    with bar(console, "views", views * total) as advance:
        outputs = make_bank(
            bank,
            teacher,
            sources,
            dataset.input_shape,
            views,
            progress=lambda count: advance(completed=count),
        )
    seen = outputs_of(teacher, test)
    logits: list[NDArray[np.float32]] = [np.asarray(one, np.float32) for one in outputs]
    if not all(np.isfinite(one).all() for one in (seen, *logits)):
        raise UserError(f"the outputs of teacher {name} are not finite: its file may be damaged")
    if not teacher.names_classes:
        fitted = fit_head(
            [one[: len(labels)] for one in outputs[:_HEAD_VIEWS]], labels, dataset.classes
        )
        logits = [fitted(one) for one in outputs]
        seen = fitted(seen)
        head = f"logistic regression on its features, {_frozen(fitted)}"
    accuracy = float((seen.argmax(1) == dataset.y_test).mean())
    _judge(logits[0], labels, dataset.class_names, name, console)
    write_lessons(folder, bank, logits)
    shutil.rmtree(states, ignore_errors=True)
    taught = TeacherInfo(
        name,
        accuracy,
        teacher.side,
        teacher.macs,
        teacher.params,
        latency,
        len(outputs),
        total,
        more,
        head,
        teacher.note,
    )
    run.set_setting(TEACHER_SETTING, taught)
    console.print(formatting.teacher_line(taught, len(dataset.y_test)))
    return folder


def check(name: str, unlabelled: Path | None, dataset: Dataset) -> None:
    """Make sure that there is such a teacher, and pictures without labels where they are named.

    Raises:
        UserError: there is not.
    """
    find(name, dataset)
    if unlabelled is not None:
        read_unlabelled(unlabelled, dataset)


def find(name: str, dataset: Dataset, device: str = "cpu") -> Teacher:
    """A teacher by name: as of `gemkit.teachers.load_teacher`, `zoo:NAME`, or the folder of a
    network that a run trained (`runs/NAME/models/ID`).

    Raises:
        UserError: there is none, or its weights cannot be had.
    """
    if zoo.is_zoo(name):
        card = zoo.card(name)
        shape = card.network.skeleton.input_shape
        return of_network(
            name, zoo.load(name), shape, card.mean, card.std, card.class_names,
            dataset.class_names, device,
        )  # fmt: skip
    folder = Path(name).expanduser()
    if not is_folder(folder):
        return load_teacher(name, dataset.class_names, max(dataset.input_shape[1:]), device)
    network = load_network(folder / "weights.safetensors")
    with Run.open(folder.parents[1]) as run:
        about = run.setting("data", DataInfo)
    if about is None or not about.mean:
        raise UserError(f"teacher {name}: its run does not say what it was trained on")
    return of_network(
        name, network, network.architecture.skeleton.input_shape, about.mean, about.std,
        about.class_names, dataset.class_names, device,
    )  # fmt: skip


def _is_tuned(teacher: Teacher) -> bool:
    """Whether it learns the user's classes first: a network in PyTorch that knows others."""
    return teacher.network is not None and not teacher.names_classes


def _frozen(head: Head) -> str:
    return f"{formatting.percent(head.accuracy)} in cross-validation"


def _plan(teacher: Teacher, views: int, images: int, labelled: int, latency: float) -> str:
    cost = "" if teacher.macs is None else f" ({format_count(teacher.macs)} MACs)"
    passes = views * images
    if _is_tuned(teacher):
        steps = fine_tuning.RECIPE.lengthened(labelled)
        passes += _STEP_IN_PASSES * steps.epochs * labelled
    seconds = latency / 1000 * passes / usable_cores()
    learns = " learns your classes and" if _is_tuned(teacher) else ""
    note = f"; {teacher.note}" if teacher.note else ""
    return (
        f"teacher {teacher.name}:{learns} sees {views} views of each of {images:,} images at "
        f"{teacher.side}x{teacher.side} pixels{cost}: about {formatting.duration(seconds)}{note}"
    )


def _without_labels(folder: Path, dataset: Dataset, side: int, console: Console) -> Images:
    """The pictures that join, with what is left out said."""
    found = read_unlabelled(folder, dataset)
    counts = {
        "that show test images": found.tests,
        "that are known already": found.known,
        "that cannot be read": found.unusable,
    }
    left = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    console.print(
        f"without labels: {formatting.number(len(found.files), 'picture')} of {folder}"
        f"{f' (left out: {left})' if left else ''}"
    )
    return read_files(found.files, side)


def _judge(
    logits: NDArray[np.float32],
    labels: Labels,
    class_names: Sequence[str],
    name: str,
    console: Console,
) -> None:
    """Say where a teacher disagrees with the labels of the training images, which come first."""
    said = logits[: len(labels)].argmax(1)
    agreed = float((said == labels).mean())
    never = sorted(set(range(len(class_names))) - set(said.tolist()))
    if never:
        names = ", ".join(class_names[one] for one in never)
        console.print(f"  teacher {name} never names {names}: its students will hardly do")
    if agreed < _DOUBTFUL:
        console.print(
            f"  teacher {name} agrees with {formatting.percent(agreed, 0)} of the training labels "
            "alone: it may know other classes, or take its images otherwise"
        )


def _latency(teacher: Teacher) -> float:
    """Milliseconds of processor time for one image, the median of a few calls."""
    image = np.zeros((1, teacher.side, teacher.side, teacher.channels), np.uint8)
    spent = []
    for _ in range(_LATENCY_CALLS):
        start = time.process_time()
        teacher.outputs(image)
        spent.append(time.process_time() - start)
    return 1000 * float(np.median(spent))
