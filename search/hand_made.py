"""Cells that a person would write down, which a search tries first: what it finds must beat them.

Star: nodes that read the cell input alone. Single: one separable convolution. Chain: one after the
other. Dense: every node reads all before it.
"""

from gemkit.cell import Cell

_SEPARABLE = "sep3x3"


def hand_made(aggregation: str = "concat", nodes: int = 5) -> dict[str, Cell]:
    """The cells by name, none of more than `nodes` nodes and each once."""
    size = {"star": min(5, nodes), "single": 1, "chain": min(3, nodes), "dense": min(4, nodes)}
    edges = {
        "star": [(0, node) for node in range(1, size["star"] + 1)],
        "single": [(0, 1)],
        "chain": [(node - 1, node) for node in range(1, size["chain"] + 1)],
        "dense": [(low, high) for high in range(1, size["dense"] + 1) for low in range(high)],
    }
    found: dict[str, Cell] = {}
    for name, count in size.items():
        cell = Cell(("input", *[_SEPARABLE] * count), tuple(edges[name]), aggregation)
        if cell.key not in {one.key for one in found.values()}:
            found[name] = cell
    return found
