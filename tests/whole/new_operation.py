"""What must hold of an operation that was added to the table: counts, files, drawings.

Run with the changed packages (PYTHONPATH); the last operation is the new one.
"""

import sys
from pathlib import Path

import numpy as np
import onnx

from gemkit.app.page.cell_svg import cell_svg
from gemkit.app.page.shares import shares
from gemkit.architecture import Architecture, skeleton_for
from gemkit.cell import AGGREGATIONS, OPERATIONS, Cell, CellArrays
from gemkit.cost import cost, execution_steps, peak_memory, verify
from gemkit.export.exporter import export_onnx
from gemkit.export.latency_features import features
from gemkit.export.onnx_builder import build_onnx
from gemkit.network import build
from gemkit.operations import TABLE
from gemkit.search import sampling

SKELETON = skeleton_for((1, 8, 8), 10)
EDGES = ((0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4))
NEW = TABLE[-1]


def is_drawn_and_mutated(rng: np.random.Generator) -> None:
    cells = sampling.random_cells(rng, 4000)
    for some in (cells, sampling.mutate(rng, cells, 2)):
        found = np.bincount(some.operations[some.operations > 0])[1:]
        np.testing.assert_allclose(found / found.sum(), 1 / len(TABLE), atol=0.05)
    few = CellArrays.from_cells([Cell(("input", name), ((0, 1),)) for name in OPERATIONS[1:]] * 40)
    mutants = sampling.mutate(rng, few, 1, nodes=1)  # nothing but another operation is possible
    assert (mutants.operations[:, 1] != few.operations[:, 1]).all()
    assert set(mutants.operations[:, 1]) == set(range(1, len(OPERATIONS)))


def counts_and_files_are_right(aggregation: str) -> None:
    cell = Cell(("input", NEW.name, "conv1x1", "sep3x3", NEW.name), EDGES, aggregation)
    architecture = Architecture((cell,), SKELETON, 8)
    network = build(architecture).eval()
    verify(architecture, network)  # against fvcore and PyTorch
    price = cost(architecture)
    assert peak_memory(execution_steps(architecture)) == price.peak_memory_bytes
    assert shares(architecture).total == price.macs
    names = [str(digit) for digit in range(10)]
    export_onnx(
        network, Path("new.onnx"), input_shape=(1, 8, 8), class_names=names, mean=[0.5], std=[0.5]
    )

    def weights(model: onnx.ModelProto) -> list[tuple[int, ...]]:
        return sorted(tuple(one.dims) for one in model.graph.initializer if len(one.dims) == 4)

    written = weights(onnx.load("new.onnx"))
    assert written == weights(build_onnx(architecture))
    assert (NEW.kernel, NEW.kernel) in {shape[2:] for shape in written}
    smaller = Cell(("input", "sep3x3", "conv1x1", "sep3x3", "sep3x3"), EDGES, aggregation)
    work = [
        features(CellArrays.from_cells([one]), SKELETON, 8)["depthwise@0"][0]
        for one in (cell, smaller)
    ]
    assert work[0] > work[1]
    assert NEW.colour in cell_svg(cell)


is_drawn_and_mutated(np.random.default_rng(int(sys.argv[1])))
for how in AGGREGATIONS:
    counts_and_files_are_right(how)
