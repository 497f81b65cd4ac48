"""Tabular benchmarks: cells whose accuracies somebody has measured, as a space to search in.

Three forms are read: NAS-Bench-101's own TFRecord files (without TensorFlow; decoded once, then
kept as an npz file beside them), and two npz layouts, with operations on nodes (`adjacency`, `ops`)
as in NAS-Bench-101 or on edges (`ops`, `edges`) as in NAS-Bench-201. Operations on edges become
nodes of a labelled graph, so that every table is described by the same code as the 30-node cells.

A searcher gets a `TableSpace`, which knows cells but no metric, and pays for values at `Queries`.

    table = load(Path("nasbench201.npz"))
    space, queries = TableSpace(table), Queries(table, "ep12_cifar10_val", seed=0)
    values = queries(space.sample(rng, 10))
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemkit import canonical
from gemkit.errors import UserError
from gemkit.files import is_file, read_arrays, replacing, unreadable

from .features import Roles, compacted, live_nodes
from .interfaces import Candidates, FloatArray, Graphs, IntArray
from .nasbench101 import ABSENT, MOST_OPERATIONS, read_nasbench101
from .predictor import Raw

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Edges of an npz table that does not name them: those of NAS-Bench-201, in its order."""
STRUCTURE = ("ops", "op_names", "edges", "adjacency", "module_hash", "cell_keys", "source_stamp")
_KIND = "table"


@dataclass(frozen=True)
class Table:
    """Cells and what was measured of them.

    Attributes:
        path: the file it was read from.
        graphs: the cells; label 0 is the input, 1 the output, the operations follow.
        label_names: the names of the labels.
        keys: (n,) S32, equal for equal cells; no two rows are equal.
        metrics: name -> (n,), nan where nothing was measured. For repeated runs the mean.
        runs: name -> (n, k) of the metrics that were measured k times.
        ops: (n, edges) codes where operations stand on edges, else None.
        edges: the pairs the columns of `ops` stand for.
        merged: how many rows were merged into others that are equal to them.
    """

    path: Path
    graphs: Graphs
    label_names: tuple[str, ...]
    keys: NDArray[np.bytes_]
    metrics: Mapping[str, FloatArray]
    runs: Mapping[str, FloatArray]
    ops: NDArray[np.uint8] | None = None
    edges: tuple[tuple[int, int], ...] = EDGES
    merged: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, metric: str) -> str:
        """The full name of a metric; `validation_accuracy` also finds `final_...`.

        Raises:
            UserError: there is none; the sentence lists those that exist.
        """
        for name in (metric, f"final_{metric}"):
            if name in self.metrics:
                return name
        known = ", ".join(sorted(self.metrics)) or "none at all"
        raise UserError(f"{self.path} has no metric {metric!r}; it has {known}")

    def find_varying(self, metric: str) -> str:
        """As `find`, for a metric by which cells can be distinguished.

        Raises:
            UserError: also where it has no value, or the same for all cells.
        """
        name = self.find(metric)
        values = self.metrics[name][np.isfinite(self.metrics[name])]
        if not len(values):
            raise UserError(f"{self.path}: metric {name!r} has no value")
        if not np.ptp(values):
            raise UserError(f"{self.path}: metric {name!r} is {values[0]:g} for every cell")
        return name

    def metric(self, name: str) -> FloatArray:
        """Values (n,) of a metric; see `find`."""
        return self.metrics[self.find(name)]


# --- reading ------------------------------------------------------------------------------------


def check_exists(path: Path) -> None:
    """Make sure that there is a table, before anything is announced.

    Raises:
        UserError: there is no such file.
    """
    if not is_file(path):
        raise UserError(f"there is no file {path}; docs/ablation.md says where to get tables")


def load(
    path: Path, unique: bool = False, progress: Callable[[float], None] | None = None
) -> Table:
    """Read a table.

    Args:
        path: a NAS-Bench-101 TFRecord file or an npz file in one of the two layouts.
        unique: merge rows that are equal once operations called "none" are removed with all that
            becomes useless, and operations called "skip_connect" are contracted.
        progress: called with the share done while a TFRecord file is decoded.

    Raises:
        UserError: no such file, empty, truncated, corrupted, or of another form; one sentence with
            the position.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix in {".pth", ".pt", ".pkl", ".pickle"}:
        raise UserError(
            f"{path} is a pickle, which can run code when opened: convert it once with "
            f"`python -m gemkit.search.convert_tables nasbench201 {path} nasbench201.npz`"
        )
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unreadable(error, path) from None
    if not magic:
        raise UserError(f"{path} is empty")
    if magic in (b"PK\x03\x04", b"\x93NUM"):
        return _from_npz(path, path, unique)
    stamp = np.array([path.stat().st_size, path.stat().st_mtime_ns], dtype=np.int64)
    for cache in cache_places(path):
        if cache.is_file():
            try:
                return _from_npz(cache, path, unique, stamp)
            except _Stale:
                continue
    arrays = read_nasbench101(path, progress)
    arrays["source_stamp"] = stamp
    arrays["cell_keys"] = canonical.keys(
        *_node_graphs(arrays["adjacency"], arrays["ops"], list(arrays["op_names"]), path), _KIND
    )
    for cache in cache_places(path):
        try:
            _write_npz(cache, arrays)
            break
        except UserError:
            continue
    return _table(arrays, path, unique)


class _Stale(Exception):
    """A cache that belongs to another state of its source."""


def cache_places(path: Path) -> list[Path]:
    """Where the decoded form of a file may lie: beside it, else in the user's cache folder."""
    name = f"{path.name}.npz"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemkit"
    mark = zlib.crc32(str(path.resolve().parent).encode())
    return [path.with_name(name), home / f"{mark:08x}-{name}"]


def _write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def _from_npz(
    file: Path, source: Path, unique: bool, stamp: NDArray[np.int64] | None = None
) -> Table:
    try:
        arrays = read_arrays(file)
    except UserError:
        if stamp is not None:
            raise _Stale from None
        raise
    if stamp is not None and not np.array_equal(arrays.get("source_stamp", np.empty(0)), stamp):
        raise _Stale
    return _table(arrays, source, unique)


def _table(arrays: Mapping[str, NDArray[Any]], path: Path, unique: bool) -> Table:
    """A table from named arrays in one of the two layouts."""
    for name in ("ops", "op_names"):
        if name not in arrays:
            raise UserError(
                f"{path} has no array {name!r}: a table of cells has 'ops' and 'op_names', and "
                "'adjacency' where operations stand on nodes"
            )
    ops, op_names = arrays["ops"], arrays["op_names"]
    if op_names.ndim != 1 or op_names.dtype.kind not in "US":
        raise UserError(f"{path}: 'op_names' must be a list of names")
    names = [
        name.decode(errors="replace") if isinstance(name, bytes) else name
        for name in op_names.tolist()
    ]
    if len(names) > MOST_OPERATIONS:
        raise UserError(
            f"{path} has {len(names)} kinds of operations: at most {MOST_OPERATIONS} can be read"
        )
    if ops.ndim != 2 or ops.dtype.kind not in "iu" or not len(ops):
        raise UserError(f"{path}: 'ops' must be an array of codes, one row a cell, not {ops.shape}")
    table = (
        _on_nodes(arrays, names, path) if "adjacency" in arrays else _on_edges(arrays, names, path)
    )
    if unique:
        table = merge(table, meanings(table))
    return table


def _metrics(arrays: Mapping[str, NDArray[Any]], size: int) -> tuple[dict[str, FloatArray], ...]:
    """All numeric arrays of length `size`, and those of several runs stacked (n, k)."""
    single: dict[str, FloatArray] = {}
    numbered: dict[str, dict[int, FloatArray]] = {}
    for name, values in arrays.items():
        if name in STRUCTURE or values.shape != (size,) or values.dtype.kind not in "iufb":
            continue
        found = re.fullmatch(r"(.+)_run(\d+)", name)
        if found:
            numbered.setdefault(found[1], {})[int(found[2])] = values.astype(float)
        else:
            single[name] = values.astype(float)
    runs = {
        name: np.stack([parts[k] for k in sorted(parts)], axis=1)
        for name, parts in numbered.items()
        if name not in single
    }
    single |= {name: _mean(values) for name, values in runs.items()}
    return single, runs


def _mean(values: FloatArray) -> FloatArray:
    """Mean along the last axis over what is not nan; nan where there is nothing."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    number = known.sum(axis=-1)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))


def _on_edges(arrays: Mapping[str, NDArray[Any]], names: list[str], path: Path) -> Table:
    ops = arrays["ops"]
    pairs = np.asarray(arrays.get("edges", np.array(EDGES)))
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) != ops.shape[1]:
        raise UserError(
            f"{path}: 'ops' has {ops.shape[1]} columns, so 'edges' must have as many pairs"
        )
    edges = tuple((int(i), int(j)) for i, j in pairs.tolist())
    if not all(0 <= i < j for i, j in edges):
        raise UserError(f"{path}: every edge must go from a lower to a higher node, from 0 on")
    bad = np.argwhere((ops < 0) | (ops >= len(names)))
    if len(bad):
        row, column = bad[0].tolist()
        raise UserError(
            f"{path}: row {row} of 'ops' has the code {int(ops[row, column])}, "
            f"but there are only {len(names)} operations"
        )
    if len(names) ** ops.shape[1] > 1 << 62:
        raise UserError(
            f"{path} has {len(names)} operations on {ops.shape[1]} edges: more cells are possible "
            "than can be numbered; give it with operations on nodes"
        )
    metrics, runs = _metrics(arrays, len(ops))
    codes = _mixed(ops, len(names))
    table = Table(
        path=path,
        graphs=_edge_graphs(ops, edges),
        label_names=("input", "output", *names),
        keys=np.char.mod("%d", codes).astype("S32"),
        metrics=metrics,
        runs=runs,
        ops=ops.astype(np.uint8),
        edges=edges,
    )
    return _without_repetitions(table, table.keys)


def _mixed(ops: NDArray[Any], base: int) -> IntArray:
    """Every row of codes as one number."""
    number = np.zeros(len(ops), dtype=np.int64)
    for column in ops.astype(np.int64).T:
        number = number * base + column
    return number


def _edge_graphs(ops: NDArray[Any], edges: tuple[tuple[int, int], ...]) -> Graphs:
    """Operations on edges as nodes: one feeds another where its edge ends at the other's start."""
    order = sorted(range(len(edges)), key=lambda e: edges[e])
    last = max(j for _, j in edges)
    places = len(edges) + 2
    adjacency = np.zeros((places, places), dtype=bool)
    for a, e in enumerate(order, start=1):
        adjacency[0, a] = edges[e][0] == 0
        adjacency[a, -1] = edges[e][1] == last
        for b, f in enumerate(order, start=1):
            adjacency[a, b] = edges[e][1] == edges[f][0]
    labels = np.empty((len(ops), places), dtype=np.int8)
    labels[:, 0], labels[:, -1] = 0, 1
    labels[:, 1:-1] = ops[:, order] + 2
    return Graphs(labels, np.repeat(adjacency[None], len(ops), axis=0))


def _node_graphs(
    adjacency: NDArray[Any], ops: NDArray[Any], names: list[str], path: Path
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Labels and adjacency, checked."""
    size, places = ops.shape
    if adjacency.shape != (size, places, places):
        raise UserError(
            f"{path}: 'adjacency' has the shape {adjacency.shape}, "
            f"but 'ops' asks for {(size, places, places)}"
        )
    for name in ("input", "output"):
        if name not in names:
            raise UserError(f"{path}: 'op_names' lacks {name!r}")
    present = ops != ABSENT
    if (present & (ops >= len(names))).any():
        row = int(np.flatnonzero((present & (ops >= len(names))).any(axis=1))[0])
        raise UserError(f"{path}: row {row} of 'ops' has a code that is not in 'op_names'")
    edges = adjacency != 0
    number = present.sum(axis=1)
    output = np.take_along_axis(ops, np.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
    wrong = (
        (np.diff(present.astype(int), axis=1) > 0).any(axis=1)
        | (number < 2)
        | (ops[:, 0] != names.index("input"))
        | (output != names.index("output"))
        | np.tril(edges).any(axis=(1, 2))
        | (edges & ~(present[:, :, None] & present[:, None, :])).any(axis=(1, 2))
    )
    if wrong.any():
        raise UserError(
            f"{path}: row {int(np.argmax(wrong))} is no cell: it must begin with the input, end "
            "with the output, and have edges from lower to higher nodes only"
        )
    rank = np.full(256, -1, dtype=np.int8)
    rank[names.index("input")], rank[names.index("output")] = 0, 1
    others = [code for code, name in enumerate(names) if name not in ("input", "output")]
    rank[others] = np.arange(2, 2 + len(others))
    return rank[ops.astype(np.uint8)], edges


def _on_nodes(arrays: Mapping[str, NDArray[Any]], names: list[str], path: Path) -> Table:
    labels, edges = _node_graphs(arrays["adjacency"], arrays["ops"], names, path)
    keys = arrays.get("cell_keys")
    if keys is None or keys.shape != (len(labels),):
        keys = canonical.keys(labels, edges, _KIND)
    metrics, runs = _metrics(arrays, len(labels))
    others = [name for name in names if name not in ("input", "output")]
    table = Table(
        path=path,
        graphs=Graphs(labels, edges),
        label_names=("input", "output", *others),
        keys=keys,
        metrics=metrics,
        runs=runs,
    )
    return _without_repetitions(table, keys)


def _without_repetitions(table: Table, keys: NDArray[Any]) -> Table:
    """Rows of equal key merged into the first of them, metrics averaged."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == len(keys):
        return table
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first))
    rows, group = first[order], rank[group]

    def mean(values: FloatArray) -> FloatArray:
        known = np.isfinite(values)
        total = np.bincount(group, np.where(known, values, 0.0), len(rows))
        number = np.bincount(group, known, len(rows))
        return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))

    return replace(
        table,
        graphs=table.graphs[rows],
        keys=table.keys[rows],
        metrics={name: mean(values) for name, values in table.metrics.items()},
        runs={
            name: np.stack([mean(column) for column in values.T], axis=1)
            for name, values in table.runs.items()
        },
        ops=None if table.ops is None else table.ops[rows],
        merged=table.merged + len(keys) - len(rows),
    )


def meanings(table: Table) -> Roles:
    """What the names "none" and "skip_connect" say; only `merge` reads names."""
    labels = {name: label for label, name in enumerate(table.label_names)}
    return Roles(
        frozenset({labels["none"]} if "none" in labels else ()),
        frozenset({labels["skip_connect"]} if "skip_connect" in labels else ()),
    )


def merge(table: Table, roles: Roles) -> Table:
    """Merge rows that compute the same once the roles are taken at their word.

    Two inputs that are equal stay two: a sum of x and x is not x.
    """
    return _without_repetitions(table, _expressions(table.graphs, roles))


def _expressions(graphs: Graphs, roles: Roles) -> NDArray[np.uint64]:
    """A number for what each graph computes: of every node, its label and the multiset of what it
    reads; a wire hands its own inputs on."""
    rng = np.random.default_rng(7)
    salt = rng.integers(1, 2**63, size=128, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    labels, adjacency = graphs.labels, graphs.adjacency
    live = live_nodes(graphs, roles)
    wire = np.isin(labels, list(roles.wires))
    said = np.zeros(labels.shape, dtype=np.uint64)
    for j in range(labels.shape[1]):
        read = np.where(adjacency[:, :j, j] & live[:, :j], said[:, :j], np.uint64(0))
        total = read.sum(axis=1, dtype=np.uint64)
        word = (total + salt[labels[:, j]]) * salt[64 + labels[:, j] % 64]
        word ^= word >> np.uint64(29)
        word *= np.uint64(0xBF58476D1CE4E5B9)
        word ^= word >> np.uint64(32)
        said[:, j] = np.where(live[:, j], np.where(wire[:, j], total, word), np.uint64(0))
    sinks = live & ~adjacency.any(axis=2)
    return np.asarray(np.where(sinks, said, np.uint64(0)).sum(axis=1, dtype=np.uint64))


# --- a table as a space -------------------------------------------------------------------------


class TableSpace:
    """The cells of a table as a `Space`; it holds no metric. A candidate's payload is its row.

    A mutant is a cell of the table one edit away (up to three where operations stand on nodes,
    since there a new node needs two edges); where the table has too few such cells, random ones
    make up the number.
    """

    def __init__(self, table: Table) -> None:
        self.graphs = table.graphs
        self.keys = table.keys
        self.labels = len(table.label_names)
        self._ops = table.ops
        self._codes = None if table.ops is None else len(table.label_names) - 2
        if table.ops is not None:
            code = _mixed(table.ops, len(table.label_names) - 2)
            self._code_row = np.argsort(code)
            self._code = code[self._code_row]
        self._order = np.argsort(table.keys)
        self._sorted = table.keys[self._order]
        self._remembered: dict[Hashable, Raw] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def candidates(self, rows: IntArray) -> Candidates:
        """The cells of these rows."""
        rows = np.asarray(rows, dtype=np.int64)
        return Candidates(self.graphs[rows], self.keys[rows], rows)

    def rows_of(self, keys: NDArray[Any]) -> IntArray:
        """Rows of these keys, -1 where the table has no such cell."""
        place = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        return np.where(self._sorted[place] == keys, self._order[place], -1)

    def sample(self, rng: np.random.Generator, count: int) -> Candidates:
        if count >= len(self):
            return self.candidates(rng.permutation(len(self)))
        return self.candidates(rng.choice(len(self), size=count, replace=False))

    def mutate(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        return self._bred(rng, parents, count, crossed=False)

    def crossover(self, rng: np.random.Generator, parents: Candidates, count: int) -> Candidates:
        return self._bred(rng, parents, count, crossed=True)

    def memo(self, candidates: Candidates, key: Hashable, how: Callable[[Graphs], Raw]) -> Raw:
        """Describe the whole table once and look rows up (a `predictor.Memo`)."""
        if key not in self._remembered:
            while len(self._remembered) >= 4:
                self._remembered.pop(next(iter(self._remembered)))
            parts = [
                how(self.graphs[start : start + 65536]) for start in range(0, len(self), 65536)
            ]
            self._remembered[key] = Raw.concatenate(parts)
        return self._remembered[key].take(np.asarray(candidates.payload))

    def _bred(
        self, rng: np.random.Generator, parents: Candidates, count: int, crossed: bool
    ) -> Candidates:
        rows = np.asarray(parents.payload)
        breed = self._bred_on_nodes if self._ops is None else self._bred_on_edges
        found = np.empty(0, dtype=np.int64)
        for _ in range(4):
            fresh = breed(rng, rows, max(64, 2 * count), crossed)
            fresh = fresh[(fresh >= 0) & ~np.isin(fresh, rows)]
            found = _distinct(np.concatenate([found, fresh]))
            if len(found) >= count:
                break
        if not len(found):
            found = rng.choice(len(self), size=min(count, len(self)), replace=False)
        return self.candidates(found[:count])

    def _bred_on_edges(
        self, rng: np.random.Generator, rows: IntArray, count: int, crossed: bool
    ) -> IntArray:
        assert self._ops is not None
        assert self._codes is not None
        ops = self._ops[rng.choice(rows, size=count)].astype(np.int64)
        if crossed:
            other = self._ops[rng.choice(rows, size=count)]
            ops = np.where(rng.random(ops.shape) < 0.5, ops, other)
        else:
            edge = rng.integers(ops.shape[1], size=count)
            step = rng.integers(1, self._codes, size=count)
            here = np.arange(count)
            ops[here, edge] = (ops[here, edge] + step) % self._codes
        code = _mixed(ops, self._codes)
        place = np.minimum(np.searchsorted(self._code, code), len(self) - 1)
        return np.where(self._code[place] == code, self._code_row[place], -1)

    def _bred_on_nodes(
        self, rng: np.random.Generator, rows: IntArray, count: int, crossed: bool
    ) -> IntArray:
        labels, edges = self._spread(rng, rng.choice(rows, size=count))
        places = labels.shape[1]
        if crossed:
            other_labels, other_edges = self._spread(rng, rng.choice(rows, size=count))
            labels = np.where(rng.random(labels.shape) < 0.5, labels, other_labels)
            edges = np.where(rng.random(edges.shape) < 0.5, edges, other_edges)
        else:
            relabel = rng.random(count) < 0.4
            upper = np.stack(np.triu_indices(places, 1), axis=1)
            for k in range(3):
                pair = upper[rng.integers(len(upper), size=count)]
                flip = ~relabel & (rng.random(count) < (1.0, 0.5, 0.3)[k])
                edges[np.flatnonzero(flip), pair[flip, 0], pair[flip, 1]] ^= True
            if places > 2 and self.labels > 3:
                node = rng.integers(1, places - 1, size=count)
                here = np.flatnonzero(relabel)
                step = rng.integers(1, self.labels - 2, size=count)
                old = labels[here, node[here]] - 2
                labels[here, node[here]] = (old + step[here]) % (self.labels - 2) + 2
        # The output alone is a sink: everything that does not lead there is pruned.
        useful = np.zeros(labels.shape, dtype=bool)
        useful[:, -1] = True
        for i in range(places - 2, -1, -1):
            useful[:, i] = (edges[:, i, i + 1 :] & useful[:, i + 1 :]).any(axis=1)
        reached = np.zeros(labels.shape, dtype=bool)
        reached[:, 0] = True
        for j in range(1, places):
            reached[:, j] = (edges[:, :j, j] & reached[:, :j]).any(axis=1)
        whole = useful[:, 0]
        graphs = compacted(Graphs(labels, edges), useful & reached)
        found = np.full(count, -1, dtype=np.int64)
        if whole.any():
            kept = graphs[whole]
            found[whole] = self.rows_of(canonical.keys(kept.labels, kept.adjacency, _KIND))
        return found

    def _spread(
        self, rng: np.random.Generator, rows: IntArray
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Cells (labels, edges) with their inner nodes at random free places in their order, the
        output last, and unconnected nodes with random operations in between."""
        old, old_edges = self.graphs.labels[rows], self.graphs.adjacency[rows]
        count, places = old.shape
        number = (old >= 0).sum(axis=1)
        lot = rng.random((count, places - 2))
        rank = np.argsort(np.argsort(lot, axis=1), axis=1)
        taken = rank < (number - 2)[:, None]
        source = np.full((count, places), -1)
        source[:, 0], source[:, -1] = 0, number - 1
        source[:, 1:-1] = np.where(taken, np.cumsum(taken, axis=1), -1)
        here = source >= 0
        safe = np.maximum(source, 0)
        labels = rng.integers(2, max(3, self.labels), size=(count, places)).astype(np.int8)
        labels = np.where(here, np.take_along_axis(old, safe, axis=1), labels)
        edges = np.take_along_axis(old_edges, safe[:, :, None], axis=1)
        edges = np.take_along_axis(edges, safe[:, None, :], axis=2)
        return labels, edges & here[:, :, None] & here[:, None, :]


def _distinct(rows: IntArray) -> IntArray:
    """Without repetitions, in the order of first appearance."""
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]


@dataclass
class Queries:
    """The values of a table, one paid cell at a time.

    A metric that was measured several times gives the value of one run, drawn once a cell, as
    the protocol of NAS-Bench-101 asks. A cell asked for again costs nothing and says the same.

    Attributes:
        table, metric, seed: what is asked for; the seed draws the runs.
        paid: rows paid for, in the order of payment.
    """

    table: Table
    metric: str
    seed: int
    paid: list[int] = field(default_factory=list)

    def __call__(self, candidates: Candidates) -> FloatArray:
        """Values (n,) of the cells, nan where the table has none."""
        rows = np.asarray(candidates.payload, dtype=np.int64)
        known = set(self.paid)
        for row in rows.tolist():
            if row not in known:
                known.add(row)
                self.paid.append(row)
        return self._values[rows]

    @cached_property
    def _values(self) -> FloatArray:
        name = self.table.find(self.metric)
        if name not in self.table.runs:
            return self.table.metrics[name]
        runs = self.table.runs[name]
        lot = np.random.default_rng([self.seed, 101]).random(runs.shape)
        lot[~np.isfinite(runs)] = np.inf
        drawn = np.argmin(lot, axis=1)[:, None]
        return np.asarray(np.take_along_axis(runs, drawn, axis=1)[:, 0])

    @property
    def reported_name(self) -> str:
        """The metric by which a chosen cell is judged: the test accuracy beside a validation
        accuracy that was measured in several runs, else the metric itself."""
        name = self.table.find(self.metric)
        if name in self.table.runs:
            for other in (name.replace("validation", "test"), name.replace("val_", "test_")):
                if other != name and other in self.table.metrics:
                    return other
        return name

    @property
    def reported(self) -> FloatArray:
        """Values (n,) of `reported_name`, means over runs; for judging, never for searching."""
        return self.table.metrics[self.reported_name]
