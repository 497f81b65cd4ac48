"""The map of a run's embedding: where each cell lies, and how alike two of them are."""

import functools
import gzip
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemkit.cell import OPERATIONS, Cell, CellArrays
from gemkit.errors import UserError
from gemkit.search import encoder
from gemkit.search.similarity import continuous

from ..projection import project

if TYPE_CHECKING:
    from .content import PageRun

_LEAST = 3


class EmbeddingMap:
    """Positions of a run's candidates; computed on first sight and again when there are more."""

    def __init__(self, shown: "PageRun") -> None:
        self._shown = shown
        self._lock = threading.Lock()
        self._known: dict[str, NDArray[np.float32]] = {}
        self._answer: tuple[int, dict[str, Any]] | None = None
        self._packed: tuple[dict[str, Any], bytes] | None = None
        self._encoder: Any = None

    def places(self) -> dict[str, Any]:
        """`id`, `x`, `y` of every candidate and `share`, what part of the spread a map can show.

        Where there is no map the answer is an `error`, one sentence.
        """
        content = self._shown.content
        with self._lock:
            if self._answer is not None and self._answer[0] == content.version:
                return self._answer[1]
            if len(content.trials) < _LEAST:
                return {"error": f"A map needs at least {_LEAST} designs; there are fewer yet."}
            try:
                found = self._places()
            except UserError as error:
                return {"error": f"There is no map: {error}"}
            self._answer = (content.version, found)
            return found

    def packed(self) -> bytes:
        """The places as JSON, gzip."""
        found, known = self.places(), self._packed
        if known is None or known[0] is not found:
            content = json.dumps(found, separators=(",", ":")).encode()
            known = self._packed = (found, gzip.compress(content, compresslevel=5))
        return known[1]

    def _places(self) -> dict[str, Any]:
        trials = self._shown.trials()
        new = [trial for trial in trials if trial.id not in self._known]
        if self._encoder is None:
            path = self._shown.folder / "encoder.safetensors"
            if not path.is_file():
                return {"error": "This run kept no encoder, so its cells have no places."}
            self._encoder = encoder.load_encoder(path)
        if new:
            arrays = CellArrays.from_cells([trial.cell for trial in new])
            vectors = encoder.embed(self._encoder, arrays.operations, arrays.adjacency, threads=1)
            self._known |= dict(zip([trial.id for trial in new], vectors, strict=True))
        ids = [trial.id for trial in trials]
        vectors = np.stack([self._known[id] for id in ids])
        flat, share = project(vectors)
        return {
            "id": ids,
            "x": np.round(flat[:, 0], 5).tolist(),
            "y": np.round(flat[:, 1], 5).tolist(),
            "share": share,
        }

    def compare(self, first: str, second: str) -> dict[str, str]:
        """How alike two cells are, in one sentence."""
        one, other = self._shown.drawn_cell(first), self._shown.drawn_cell(second)
        if one is None or other is None:
            return {"error": "One of the two has no cell."}
        likeness = similarity(one.cell, other.cell)
        places = self._known.get(first), self._known.get(second)
        name = self._shown.content.name
        text = f"{name(first)} and {name(second)}: Weisfeiler-Lehman similarity {likeness:.3f} of 1"
        if places[0] is not None and places[1] is not None:
            text += f"; cosine of their embeddings {_cosine(places[0], places[1]):.3f}"
        return {"text": text + "."}


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))


@functools.lru_cache(maxsize=4096)
def similarity(first: Cell, second: Cell) -> float:
    """The Weisfeiler-Lehman similarity that guides the encoder: 1 for cells that are alike."""
    arrays = CellArrays.from_cells([first, second])
    vectors = continuous(arrays.operations, arrays.adjacency, kinds=len(OPERATIONS))
    return float(np.clip(vectors[0] @ vectors[1], 0.0, 1.0))
