"""Photographs: what a teacher and longer trainings are worth.

    OMP_NUM_THREADS=1 python experiments/photographs.py --photographs FOLDER [--only "NAME;NAME"]
    python experiments/photographs.py --runs RUN [RUN ...]

One network that searches find (a cell of one separable convolution, as wide as 10 M MACs allow at
64x64 pixels) is trained by the product's own loop on three quarters of the training photographs and
judged on the fourth; the test photographs are not looked at. Every training is one entry of
`results/photographs.json`, written as it ends; a run that was stopped goes on where it was.

The second form notes what runs of `gemkit run` reached, their test accuracy included, and what
their int8 files (`gemkit export RUN --precision int8`) lose over hold-out and test photographs.
"""

import argparse
import os
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import results_page
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import StratifiedKFold

from gemkit import data
from gemkit.app.runs import data_of
from gemkit.architecture import Architecture
from gemkit.budget import Budget
from gemkit.cell import CellArrays
from gemkit.cost import largest_widths
from gemkit.export.exporter import accuracy_of
from gemkit.files import data_folder, read_json, write_json
from gemkit.fine_tuning import fine_tuned
from gemkit.machine import describe_machine, versions
from gemkit.network import build
from gemkit.pictures import selected
from gemkit.recipe import RECIPES
from gemkit.records import TEACHER_SETTING, Model, TeacherInfo
from gemkit.search.hand_made import hand_made
from gemkit.skeletons import skeletons_for
from gemkit.store import Run
from gemkit.teachers import fit_head, load_teacher
from gemkit.train import train
from gemkit.views import VIEWS, Lessons, bank_folder, make_bank, outputs_of

RESULTS = results_page.RESULTS / "photographs.json"
FOLDS, SIDE, MACS = 4, 64, 10_000_000
HEAD_VIEWS = 4
TEACHERS = {
    "frozen": "efficientnet-lite0",
    "frozen@160": "efficientnet-lite0@160",
    "tuned": "efficientnet-lite0",
    "tuned@160": "efficientnet-lite0@160",
}


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        teacher: one of `TEACHERS`; none where the labels alone are learnt.
        steps: of the whole training.
        views: of the bank, that are shown.
        labels: share of the label among the targets, the rest is the teacher's.
        temperature: that the teacher's logits are divided by.
        change: of the recipe, `standard` or `taught`.
    """

    teacher: str = ""
    steps: int = 3400
    views: int = VIEWS
    labels: float = 0.0
    temperature: float = 1.0
    change: dict[str, Any] = field(default_factory=dict)


JOBS = {
    "labels": Job(),
    "tuned": Job("tuned", 3000),
    "tuned, shorter": Job("tuned", 2000),
    "tuned, not mirrored": Job("tuned", 3000, change={"flip": False}),
    "tuned, smoother": Job("tuned", 3000, temperature=2.0),
    "tuned, with labels": Job("tuned", 3000, labels=0.3),
    "frozen": Job("frozen", 3000),
    "labels, longer": Job(steps=6800),
    "tuned, longer": Job("tuned", 6000),
}
"""In the order in which they were worth doing."""


@dataclass(frozen=True)
class Fold:
    """The photographs: rows to train on and to judge by."""

    spec: str
    dataset: data.Dataset
    rows: NDArray[np.intp]
    judging: NDArray[np.intp]

    @classmethod
    def of(cls, folder: Path, number: int) -> "Fold":
        spec = f"imagefolder:{folder}@{SIDE}"
        dataset = data.load(spec)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        parts = list(folds.split(dataset.y_train, dataset.y_train))
        return cls(spec, dataset, *parts[number])

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.dataset.y_train[self.rows]


def network_of(dataset: data.Dataset) -> Architecture:
    cell = hand_made()["single"]
    skeleton = skeletons_for(dataset.input_shape, dataset.classes)[1]
    (width,) = largest_widths(CellArrays.from_cells([cell]), skeleton, Budget(macs=MACS))
    return Architecture((cell,), skeleton, int(width))


def taught(fold: Fold, name: str, known: dict[str, Any], folder: Path) -> tuple[Path, Any]:
    """The bank of a teacher's views, and its logits (views, n, classes)."""
    teacher = load_teacher(TEACHERS[name], fold.dataset.class_names, SIDE, "cpu")
    pictures, _ = data.larger_images(fold.spec, fold.dataset, round(1.5 * teacher.side))
    mine, others = selected(pictures, fold.rows), selected(pictures, fold.judging)
    began = time.process_time()
    head = None
    if name.startswith("tuned"):
        teacher, _ = fine_tuned(
            teacher,
            mine,
            fold.labels,
            fold.dataset.class_names,
            checkpoint=folder / name,
            progress=lambda now: print(
                f"  {name} {now.step}/{now.steps} {now.loss:.3f} {now.images_per_second:.0f}/s",
                flush=True,
            ),
        )
    spent = time.process_time() - began
    bank = bank_folder(data_folder(), teacher, [mine], fold.dataset.input_shape)
    outputs = make_bank(bank, teacher, [mine], fold.dataset.input_shape)
    seen = outputs_of(teacher, others)
    if not teacher.names_classes:
        head = fit_head(outputs[:HEAD_VIEWS], fold.labels, fold.dataset.classes)
        outputs, seen = tuple(map(head, outputs)), head(seen)
    logits = np.stack([np.asarray(one, np.float32) for one in outputs])
    known[name] = {
        "side": teacher.side,
        "accuracy": float((seen.argmax(1) == fold.dataset.y_train[fold.judging]).mean()),
        "agrees": float((logits[0].argmax(1) == fold.labels).mean()),
        "agrees_in_views": float((logits[1:].argmax(2) == fold.labels).mean()),
        "fine_tuning_seconds": round(spent, 1),
    }
    print(name, known[name], flush=True)
    return bank, logits


def lessons(job: Job, fold: Fold, bank: Path, logits: Any) -> Lessons:
    shares = softmax(logits[: job.views] / job.temperature, axis=2)
    shares += job.labels * (np.eye(fold.dataset.classes, dtype=np.float32)[fold.labels] - shares)
    images = [np.load(bank / f"{view}.npy", mmap_mode="r") for view in range(job.views)]
    return Lessons(tuple(images), shares.astype(np.float16))


def of_run(path: Path) -> dict[str, Any]:
    """What a run reached."""
    with Run.open(path) as run:
        dataset = data.load(data_of(run))
        best, teacher = run.recommendation(), run.setting(TEACHER_SETTING, TeacherInfo)
        networks = [*run.models(), *run.baselines()]
        begun = datetime.fromisoformat(run.info.created).timestamp()
        seed, budget = run.config["seed"], run.budget.to_json()
    assert best is not None
    rows = data.held_out(dataset)
    images = np.concatenate([dataset.x_test, dataset.x_train[rows]])
    labels = np.concatenate([dataset.y_test, dataset.y_train[rows]])
    folders = {one.parent.name: one for one in path.glob("*/*/model.onnx")}
    written = max(one.stat().st_mtime for one in folders.values())
    reached = []
    for one in networks:
        if one.accuracy is None or one.holdout is None:
            continue
        row = {
            "id": one.id,
            "kind": "found" if isinstance(one, Model) else "known",
            "accuracy": one.accuracy,
            "holdout": one.holdout.accuracy,
            "macs": one.macs,
            "params": one.params,
        }
        if one.id in folders and folders[one.id].with_suffix(".int8.onnx").exists():
            row["fp32_together"] = accuracy_of(folders[one.id], images, labels)
            row["int8_together"] = accuracy_of(
                folders[one.id].with_suffix(".int8.onnx"), images, labels
            )
        reached.append(row)
    return {
        "run": path.name,
        "seed": seed,
        "training_images": len(dataset.y_train),
        "test_images": len(dataset.y_test),
        "images_together": len(labels),
        "budget": budget,
        "recommended": best.id,
        "accuracy": best.accuracy,
        "minutes": round((written - begun) / 60, 1),
        "teacher": None if teacher is None else teacher.to_json(),
        "networks": reached,
    }


def finish(results: dict[str, Any], path: Path) -> None:
    """Write the results and, where they are the committed ones, the page."""
    write_json(path, results)
    if path == RESULTS:
        results_page.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--only", default=";".join(JOBS), help="names, between semicolons")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = (
        read_json(options.out)
        if options.out.exists()
        else {"teachers": {}, "trainings": [], "runs": []}
    )
    results |= {"task": f"Training photographs of clothing, one of {FOLDS} folds judges"}
    results |= {"machine": describe_machine(), "versions": versions()}
    for path in options.runs:
        others = [one for one in results["runs"] if one["run"] != path.name]
        results["runs"] = [*others, of_run(path)]
        finish(results, options.out)
        print(results["runs"][-1], flush=True)
    if options.photographs is None:
        return
    fold = Fold.of(options.photographs, options.fold)
    scratch = data_folder() / "photographs" / str(options.fold)
    known = results["teachers"].setdefault(f"fold {options.fold}", {})

    @cache
    def teach(name: str) -> tuple[Path, Any]:
        found = taught(fold, name, known, scratch)
        write_json(options.out, results)
        return found

    architecture = network_of(fold.dataset)
    for name in options.only.split(";"):
        job = JOBS[name]
        key = {"name": name, "fold": options.fold, "seed": options.seed}
        if any(key.items() <= one.items() for one in results["trainings"]):
            continue
        shown = None
        if job.teacher:
            shown = lessons(job, fold, *teach(job.teacher))
        recipe = RECIPES["taught" if job.teacher else "standard"]
        recipe = replace(recipe, epochs=1, least_steps=job.steps, **job.change)
        recipe = recipe.lengthened(len(fold.rows))
        torch.manual_seed(options.seed)
        network = build(architecture)
        began = time.process_time()
        found = train(
            network,
            np.ascontiguousarray(fold.dataset.x_train[fold.rows]),
            fold.labels,
            np.ascontiguousarray(fold.dataset.x_train[fold.judging]),
            fold.dataset.y_train[fold.judging],
            recipe=recipe,
            mean=fold.dataset.mean,
            std=fold.dataset.std,
            seed=options.seed,
            device="cpu",
            lessons=shown,
        )
        entry = {
            **key,
            **{label: value for label, value in asdict(job).items() if label != "change"},
            "recipe": recipe.to_json(),
            "accuracy": found.accuracy,
            "judged": len(fold.judging),
            "loss": round(found.curve[-1]["loss"], 4),
            "processor_seconds": round(time.process_time() - began, 1),
        }
        results["trainings"].append(entry)
        finish(results, options.out)
        print(f"{name}: {found.accuracy:.4f} ({entry['processor_seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    main()
