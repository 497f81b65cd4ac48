"""A cell: the directed acyclic graph of operations that the search looks for.

Node 0 is the cell input; up to 30 nodes with an operation each follow it. An edge goes from the
lower to the higher index and says that the source's output is an input of the target. What the
nodes compute is documented in `gemkit.network`, what a cell costs in `gemkit.cost`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gemkit import canonical
from gemkit.errors import UserError
from gemkit.files import check_format, read_json, write_json
from gemkit.operations import TABLE

OPERATIONS = ("input", *(operation.name for operation in TABLE))
"""Names of what a node can be (`gemkit.operations`); the index is the code used in arrays."""
FORMAT = 1
"""Of cell files."""
ABSENT = -1
"""Code of a place in an array that holds no node."""
MAX_NODES = 30
"""Nodes with an operation in one cell; the cell input comes in addition (the paper's N)."""
AGGREGATIONS = ("concat", "sum")
"""How a node joins several inputs: along channels, or by adding them."""


@dataclass(frozen=True)
class Cell:
    """An immutable cell.

    Attributes:
        operations: the operation of every node; the first is "input".
        edges: pairs (source, target) with source < target, kept sorted.
        aggregation: "concat" or "sum".

    Raises:
        UserError: what is given is no cell; the sentence says why.
    """

    operations: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    aggregation: str = "concat"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        object.__setattr__(self, "edges", tuple(sorted(tuple(edge) for edge in self.edges)))
        self._validate()

    def _validate(self) -> None:
        if self.aggregation not in AGGREGATIONS:
            raise UserError(
                f"unknown aggregation {self.aggregation!r}: use one of {', '.join(AGGREGATIONS)}"
            )
        if not self.operations or self.operations[0] != "input":
            raise UserError('a cell\'s first operation must be "input" (node 0 is the cell input)')
        for node, operation in enumerate(self.operations[1:], start=1):
            if operation == "input":
                raise UserError(f'node {node} is "input": only node 0 can be the cell input')
            if operation not in OPERATIONS:
                raise UserError(
                    f"unknown operation {operation!r} at node {node}: "
                    f"use one of {', '.join(OPERATIONS[1:])}"
                )
        if self.nodes > MAX_NODES:
            raise UserError(
                f"a cell of {self.nodes} nodes is too large: at most {MAX_NODES} "
                "come after the cell input"
            )
        for source, target in self.edges:
            if source == target:
                raise UserError(f"edge [{source}, {target}] is a self-loop: remove it")
            for node in (source, target):
                if not 0 <= node < len(self.operations):
                    raise UserError(
                        f"edge [{source}, {target}] names node {node}: "
                        f"the nodes are 0 to {len(self.operations) - 1}"
                    )
            if source > target:
                raise UserError(
                    f"edge [{source}, {target}] goes backwards and could close a cycle: "
                    "number the nodes so that every edge goes from the lower to the higher index"
                )
        for first, second in zip(self.edges, self.edges[1:], strict=False):
            if first == second:
                raise UserError(f"edge {list(first)} is given twice: remove one")
        if not any(source == 0 for source, _ in self.edges):
            raise UserError("no edge leaves the cell input: connect node 0 to another node")

    @property
    def nodes(self) -> int:
        """Number of nodes with an operation, the cell input not counted."""
        return len(self.operations) - 1

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For every node the nodes it reads, in ascending order."""
        found: list[list[int]] = [[] for _ in self.operations]
        for source, target in self.edges:
            found[target].append(source)
        return tuple(tuple(sorted(nodes)) for nodes in found)

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For every node the nodes that read it, in ascending order."""
        found: list[list[int]] = [[] for _ in self.operations]
        for source, target in self.edges:
            found[source].append(target)
        return tuple(tuple(nodes) for nodes in found)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Nodes that no other node reads; each feeds the cell's output."""
        return tuple(node for node in range(1, len(self.operations)) if not self.successors[node])

    @cached_property
    def _reached(self) -> tuple[int, ...]:
        reached = {0}
        for source, target in self.edges:  # sorted, so a source is settled before it is used
            if source in reached:
                reached.add(target)
        return tuple(sorted(reached))

    @property
    def is_pruned(self) -> bool:
        """Whether the cell input reaches every node."""
        return len(self._reached) == len(self.operations)

    def pruned(self) -> "Cell":
        """The cell without the nodes that the cell input does not reach."""
        if self.is_pruned:
            return self
        place = {node: index for index, node in enumerate(self._reached)}
        edges = [
            (place[source], place[target])
            for source, target in self.edges
            if source in place and target in place
        ]
        operations = tuple(self.operations[node] for node in place)
        return Cell(operations, tuple(edges), self.aggregation)

    @cached_property
    def key(self) -> str:
        """Canonical key, 32 hexadecimal digits: equal exactly for isomorphic pruned cells."""
        return str(CellArrays.from_cells([self.pruned()]).keys()[0], "ascii")

    @property
    def id(self) -> str:
        """Short name of the cell: the first ten digits of its key."""
        return self.key[:10]

    def to_json(self) -> dict[str, Any]:
        """The content of a cell file (`cell.json`)."""
        return {
            "operations": list(self.operations),
            "edges": [list(edge) for edge in self.edges],
            "aggregation": self.aggregation,
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "cell") -> Self:
        """Read what `to_json` wrote.

        Raises:
            UserError: `value` is no cell; the sentence begins with `where`.
        """
        if not isinstance(value, dict):
            raise UserError(f"{where}: a cell is a JSON object with operations and edges")
        for name in ("operations", "edges"):
            if not isinstance(value.get(name), list):
                raise UserError(f"{where}: {name!r} must be a list")
        for index, operation in enumerate(value["operations"]):
            if not isinstance(operation, str):
                raise UserError(f"{where}: operation {index} must be a name, not {operation!r}")
        for edge in value["edges"]:
            if not (
                isinstance(edge, list)
                and len(edge) == 2
                and all(isinstance(node, int) and not isinstance(node, bool) for node in edge)
            ):
                raise UserError(f"{where}: edge {json.dumps(edge)} must be two node numbers")
        aggregation = value.get("aggregation", "concat")
        if not isinstance(aggregation, str):
            raise UserError(f"{where}: 'aggregation' must be one of {', '.join(AGGREGATIONS)}")
        try:
            return cls(
                tuple(value["operations"]),
                tuple((source, target) for source, target in value["edges"]),
                aggregation,
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def read_cell(path: Path) -> Cell:
    """Read a cell file.

    Raises:
        UserError: the file is missing, no JSON or no cell, or of a newer format; the sentence
            names it.
    """
    value = read_json(path)
    if isinstance(value, dict):
        check_format(value.get("format", 1), FORMAT, str(path))  # one typed by hand names none
    return Cell.from_json(value, where=str(path))


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell file, whole or not at all."""
    write_json(path, file_content(cell))


def file_content(cell: Cell) -> dict[str, Any]:
    """What a cell file holds."""
    return {"format": FORMAT, **cell.to_json()}


@dataclass(frozen=True)
class CellArrays:
    """Many cells of one aggregation as arrays, padded to the same number of places m.

    Attributes:
        operations: int8 (n, m), codes into OPERATIONS; ABSENT where there is no node. Absent
            places come last, node 0 is the cell input.
        adjacency: bool (n, m, m); [b, i, j] is true where cell b has the edge i -> j (i < j).
        aggregation: "concat" or "sum".
    """

    operations: NDArray[np.int8]
    adjacency: NDArray[np.bool_]
    aggregation: str = "concat"

    def __len__(self) -> int:
        return len(self.operations)

    def __getitem__(self, index: Any) -> "CellArrays":
        """The cells that a slice, a mask or an array of positions selects."""
        return CellArrays(self.operations[index], self.adjacency[index], self.aggregation)

    def cell(self, index: int) -> Cell:
        """One cell as a value."""
        codes = self.operations[index]
        present = int((codes != ABSENT).sum())
        sources, targets = np.nonzero(self.adjacency[index])
        return Cell(
            tuple(OPERATIONS[code] for code in codes[:present]),
            tuple(zip(sources.tolist(), targets.tolist(), strict=True)),
            self.aggregation,
        )

    @classmethod
    def from_cells(cls, cells: Sequence[Cell]) -> Self:
        """Pack cells; all must have the same aggregation."""
        aggregation = cells[0].aggregation if cells else "concat"
        places = max((len(cell.operations) for cell in cells), default=1)
        operations = np.full((len(cells), places), ABSENT, dtype=np.int8)
        adjacency = np.zeros((len(cells), places, places), dtype=bool)
        for row, cell in enumerate(cells):
            if cell.aggregation != aggregation:
                raise ValueError("cells of different aggregations cannot share arrays")
            operations[row, : len(cell.operations)] = [
                OPERATIONS.index(operation) for operation in cell.operations
            ]
            sources, targets = zip(*cell.edges, strict=True)
            adjacency[row, list(sources), list(targets)] = True
        return cls(operations, adjacency, aggregation)

    @classmethod
    def concatenate(cls, parts: Sequence["CellArrays"]) -> Self:
        """Join several batches, padded to the largest number of places."""
        places = max(part.operations.shape[1] for part in parts)
        padded = [part._padded(places) for part in parts]
        return cls(
            np.concatenate([part.operations for part in padded]),
            np.concatenate([part.adjacency for part in padded]),
            parts[0].aggregation,
        )

    def _padded(self, places: int) -> "CellArrays":
        more = places - self.operations.shape[1]
        if not more:
            return self
        return CellArrays(
            np.pad(self.operations, ((0, 0), (0, more)), constant_values=ABSENT),
            np.pad(self.adjacency, ((0, 0), (0, more), (0, more))),
            self.aggregation,
        )

    def pruned(self) -> "CellArrays":
        """The cells without the nodes that their input does not reach, absent places last."""
        places = self.operations.shape[1]
        reached = np.zeros(self.operations.shape, dtype=bool)
        reached[:, 0] = True
        for node in range(1, places):
            reached[:, node] = (self.adjacency[:, :node, node] & reached[:, :node]).any(axis=1)
        if np.array_equal(reached, self.operations != ABSENT):
            return self
        order = np.argsort(~reached, axis=1, kind="stable")
        kept = np.take_along_axis(reached, order, axis=1)
        operations = np.where(kept, np.take_along_axis(self.operations, order, axis=1), ABSENT)
        rows = np.arange(len(self))[:, None, None]
        adjacency = self.adjacency[rows, order[:, :, None], order[:, None, :]]
        adjacency = adjacency & kept[:, :, None] & kept[:, None, :]
        return CellArrays(operations.astype(np.int8), adjacency, self.aggregation)

    def keys(self) -> NDArray[np.bytes_]:
        """Canonical key of every cell, (n,) of 32 ASCII digits; equal to `Cell.key`.

        The cells must be pruned.
        """
        return canonical.keys(self.operations, self.adjacency, self.aggregation)
