"""What a report shows: its links, and the drawings of cells."""

from pathlib import Path

import numpy as np
import pytest

from gemkit.app.report import cell_layout, cell_plots, document, plots
from gemkit.errors import UserError
from networks import random_cell


def test_links_in_a_report_lead_to_files_of_the_run_alone(tmp_path: Path) -> None:
    blocks = ["[a](models/x/a.onnx) of [b](javascript:alert(1))"]
    page = document.page(blocks, "title", tmp_path)
    assert '<a href="models/x/a.onnx">a</a>' in page
    assert page.count("<a ") == 1


def test_the_drawing_keeps_nodes_apart_and_lines_going_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for nodes, density in ((1, 1.0), (12, 0.2), (30, 0.1), (30, 0.5)):
        cell = random_cell(rng, nodes, density=density)
        placed = cell_layout.layout(cell)
        points = placed.positions
        assert len(points) == nodes + 2
        gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
        assert gaps[~np.eye(len(points), dtype=bool)].min() > 0.45  # a node is 0.45 inches wide
        assert all(segment.start[0] < segment.end[0] for segment in placed.segments)
        # Following the lines leads from every node to exactly those who read it.
        for node in range(nodes + 1):
            reached = {s.to_node for s in placed.segments if s.owner == node and s.to_node >= 0}
            expected = set(cell.successors[node]) | ({nodes + 1} if node in cell.leaves else set())
            assert reached == expected


def test_pictures_are_written_whole_or_refused(tmp_path: Path, seed: int) -> None:
    cell = random_cell(np.random.default_rng(seed), 30, density=0.2)
    figure = cell_plots.cell_figure(cell, "title", "subtitle")
    for name in ("cell.png", "cell.svg"):
        plots.save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        plots.save(figure, tmp_path / "cell.bmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.png", "cell.svg"]
