"""Networks as C on emulated microcontrollers, and their memory: experiments/microcontrollers.py.

    python experiments/microcontrollers.py [--images 500] [--memory 20]

`boards`: int8 files of the zoo (CIFAR-10's JPEG copy), of an untrained ResNet-8, and of what
`gemkit run --target nrf52840` finds for the digits in two short trials: flash, RAM and instructions
an image on each processor, and the accuracy of the compiled program on the first test images.
`memory`: for random cells, what the planner says, the array of the C program by the linker, and the
block that onnxruntime plans for its activations. Needs gcc,
gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Writes results/microcontrollers.json
after each network, and goes on with what is missing there (delete the file to begin anew); prints
both as tables; 10 minutes of processor time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemkit.app import zoo
from gemkit.app.steps import pipeline
from gemkit.architecture import Architecture, skeleton_for
from gemkit.baselines import baseline
from gemkit.budget import Budget
from gemkit.cost import cost
from gemkit.data import Dataset, load
from gemkit.export import quantize
from gemkit.export.exporter import export_onnx, read_info
from gemkit.export.microcontroller.project import CProject, c_project
from gemkit.export.microcontroller.toolchain import PROCESSORS, build
from gemkit.export.quantize import to_int8
from gemkit.export.targets import targets
from gemkit.files import read_json, write_json
from gemkit.network import build as network_of
from gemkit.search.sampling import random_cells

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUN = ROOT / "results" / "microcontrollers.json", ROOT / "runs" / "microcontrollers"
IMAGES = ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz"
SHAPES = ((1, 8, 8), (3, 32, 32))
UNTRAINED = "resnet8, untrained, 32x32x3"
BLOCK = re.compile(r"Extended allocation by (\d+) bytes")


class Rows:
    """The rows of a table, of which each is written as soon as it is there."""

    def __init__(self, table: str) -> None:
        self.table = table

    def all(self) -> dict[str, list[dict[str, Any]]]:
        """The rows that there are, by table."""
        return {"boards": [], "memory": [], **(read_json(RESULTS) if RESULTS.exists() else {})}

    def has(self, **wanted: object) -> bool:
        """Whether a row with this value is there."""
        return any(wanted.items() <= row.items() for row in self.all()[self.table])

    def add(self, row: dict[str, Any]) -> None:
        """Write one more row."""
        found = self.all()
        found[self.table].append(row)
        write_json(RESULTS, found)
        print(row, flush=True)


def entry(name: str, found: CProject, macs: int, trained: bool) -> dict[str, Any]:
    """A row of the first table."""
    fits = [
        one.name
        for one in targets()
        for board in found.boards
        if board.processor == one.processor
        and board.size.flash_bytes <= (one.budget.params or 0)
        and board.size.ram_bytes <= (one.budget.memory_bytes or 0)
    ]
    row = {**found.to_json(), "name": name, "macs": macs, "fits": fits}
    del row["folder"]
    return row if trained else {**row, "accuracy": None}


def in_int8(path: Path, data: Dataset, images: int) -> CProject:
    """An fp32 file as a C project in integers, on all processors."""
    target = path.with_name(f"{path.stem}.int8.onnx")
    test = data.x_test[:images], data.y_test[:images]
    to_int8(path, target, training=(data.x_train, data.y_train), test=test, whole=True)
    return c_project(target, path.with_name(f"{path.stem}-c"), test=test, processors=[*PROCESSORS])


def some_images(path: Path, tests: int) -> Path:
    """2,000 training images and some test images, spread over all, as a file of its own."""
    with np.load(IMAGES, allow_pickle=False) as whole:
        values = {"class_names": whole["class_names"]}
        for part, count in (("train", 2000), ("test", tests)):
            content, offsets = whole[f"{part}_bytes"], whole[f"{part}_offsets"]
            labels = whole[f"y_{part}"]
            chosen = np.linspace(0, len(labels) - 1, count).astype(int)
            files = [content[offsets[index] : offsets[index + 1]] for index in chosen]
            values[f"{part}_bytes"] = np.concatenate(files)
            values[f"{part}_offsets"] = np.cumsum([0, *map(len, files)])
            values[f"y_{part}"] = labels[chosen]
    np.savez(path, **values)
    return path


def boards(images: int, folder: Path, rows: Rows) -> None:
    """The first table."""
    digits = load("digits")
    if not RUN.exists():
        asked = Budget(macs=1_000_000, precision="int8")
        options = {"target": "nrf52840", "trials": 2, "epochs": 2, "top": 1}
        pipeline.run("digits", asked, out=RUN, command="gemkit run", **options).close()
    for path in sorted(RUN.glob("*/*/model.onnx")):
        kind = "found, digits" if path.parts[-3] == "models" else f"{path.parent.name}, digits"
        if rows.has(name=kind):
            continue
        copied = folder / f"{path.parent.name}.onnx"
        copied.write_bytes(path.read_bytes())
        made = in_int8(copied, digits, images)
        rows.add(entry(kind, made, read_info(path).more["macs"], True))
    photographs = load(f"npz:{some_images(folder / 'images.npz', images)}")
    if not rows.has(name=UNTRAINED):
        torch.manual_seed(0)
        path = folder / "resnet8.onnx"
        export_onnx(
            baseline("resnet8", (3, 32, 32), 10).eval(),
            path,
            input_shape=(3, 32, 32),
            class_names=photographs.class_names,
            mean=photographs.mean,
            std=photographs.std,
        )
        made = in_int8(path, photographs, 50)
        macs = read_info(folder / "resnet8.int8.onnx").more["macs"]
        rows.add(entry(UNTRAINED, made, macs, False))
    for card in zoo.cards():
        if not rows.has(name=f"zoo:{card.name}"):
            path = folder / f"{card.name}.onnx"
            zoo.write(card, path)
            made = in_int8(path, photographs, images)
            rows.add(entry(f"zoo:{card.name}", made, card.macs, True))


def planned_by_onnxruntime(path: Path, shape: tuple[int, int, int]) -> int:
    """Bytes that onnxruntime asks for at once in a second run, when it knows all sizes: the arena
    is emptied after the first, and grows by what is asked for only."""
    code = (
        "import numpy, sys, onnxruntime as ort\n"
        "ort.set_default_logger_severity(0)\n"
        "options = ort.SessionOptions()\n"
        "options.log_severity_level, options.intra_op_num_threads = 0, 1\n"
        "options.add_session_config_entry('session.use_env_allocators', '1')\n"
        "kinds = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT\n"
        "info = ort.OrtMemoryInfo('Cpu', *kinds)\n"
        "arena = ort.OrtArenaCfg({'arena_extend_strategy': 1})\n"
        "ort.create_and_register_allocator(info, arena)\n"
        "session = ort.InferenceSession(sys.argv[1], options)\n"
        "shape = [int(size) for size in sys.argv[2:]]\n"
        "image = numpy.zeros((1, *shape), numpy.float32)\n"
        "shrink = ort.RunOptions()\n"
        "shrink.add_run_config_entry('memory.enable_memory_arena_shrinkage', 'cpu:0')\n"
        "session.run(None, {'image': image}, shrink)\n"
        "print('SECOND RUN', file=sys.stderr, flush=True)\n"
        "session.run(None, {'image': image})\n"
    )
    command = [sys.executable, "-c", code, str(path), *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    second = done.stderr.partition("SECOND RUN")[2]
    return sum(int(size) for size in BLOCK.findall(second))


def memory(count: int, folder: Path, rows: Rows) -> None:
    """The second table: random cells of both aggregations, for images of two shapes."""
    for index in range(2 * count):
        if sum("refused" not in row for row in rows.all()["memory"]) >= count:
            break
        if rows.has(index=index):
            continue
        rng = np.random.default_rng(index)
        shape, kind = SHAPES[index % 2], ("concat", "sum")[index // 2 % 2]
        cell = random_cells(rng, 1, 30, kind).pruned().cell(0)
        architecture = Architecture((cell,), skeleton_for(shape, 10), 8)
        torch.manual_seed(index)
        path = folder / f"{index}.onnx"
        mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
        names = [str(number) for number in range(10)]
        network = network_of(architecture).eval()
        export_onnx(network, path, input_shape=shape, class_names=names, mean=mean, std=std)
        images = rng.integers(0, 256, (32, *shape[1:], shape[0]), np.uint8)
        labelled = images, np.zeros(32, np.int64)
        to_int8(path, path.with_suffix(".int8.onnx"), training=labelled, test=labelled, whole=True)
        row: dict[str, Any] = {
            "index": index,
            "input_shape": list(shape),
            "aggregation": kind,
            "nodes": cell.nodes,
            "macs": cost(architecture).macs,
        }
        for precision, file in (("fp32", path), ("int8", path.with_suffix(".int8.onnx"))):
            try:
                made = c_project(file, folder / f"{index}-{precision}")
            except RuntimeError as error:  # its rounding shows in the outputs of random weights
                row["refused"] = f"{precision}: {error}"
                break
            size = build(made.folder, PROCESSORS["cortex-m4"])
            assert size is not None
            row[precision] = {
                "planner_bytes": cost(architecture, precision).peak_memory_bytes,
                "c_bytes": size.ram_bytes - size.stack_bytes,
                "onnxruntime_bytes": planned_by_onnxruntime(file, shape),
            }
        rows.add(row)


def tables(found: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    lines = [
        "| network, int8 in C | MACs | accuracy | processor | flash | RAM | instructions | fits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["boards"]:
        for board in row["boards"]:
            accuracy = "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
            instructions = board["instructions"]
            counted = "–" if instructions is None else f"{instructions / 1e6:.1f} M"
            names = [one.name for one in targets() if one.processor == board["processor"]]
            fits = ", ".join(name for name in names if name in row["fits"]) or "none"
            lines.append(
                f"| {row['name']} | {row['macs'] / 1e6:.2f} M | {accuracy} | {board['processor']} "
                f"| {board['flash_bytes'] / 1000:.1f} kB | {board['ram_bytes'] / 1000:.1f} kB "
                f"| {counted} | {fits} |"
            )
    lines += [
        "",
        "| images, cell | MACs | fp32: planner | C | onnxruntime "
        "| int8: planner | C | onnxruntime |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["memory"]:
        if "refused" in row:
            continue
        shape = "x".join(map(str, (*row["input_shape"][1:], row["input_shape"][0])))
        sizes = [
            f"{row[precision][name] / 1000:.1f} kB"
            for precision in ("fp32", "int8")
            for name in ("planner_bytes", "c_bytes", "onnxruntime_bytes")
        ]
        cell = f"{shape}, {row['nodes']} nodes, {row['aggregation']}"
        lines.append(f"| {cell} | {row['macs'] / 1e6:.2f} M | {' | '.join(sizes)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write and print."""
    quantize.latency_ms = lambda paths: [1.0] * len(paths)  # how fast files are here is not asked
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--memory", type=int, default=20, help="networks of the second table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        memory(options.memory, Path(temporary), Rows("memory"))
        boards(options.images, Path(temporary), Rows("boards"))
    print(tables(read_json(RESULTS)))


if __name__ == "__main__":
    main()
