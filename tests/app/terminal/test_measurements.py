"""The table of measurements."""

import io
from dataclasses import replace

from rich.console import Console

import page_run
from gemkit.app.terminal.measurements import measurement_table, tails


def test_a_table_of_measurements_tells_files_apart(seed: int) -> None:
    assert tails(["a/b/x.onnx", "a/c/y.onnx", "a/b/x.onnx"]) == ["x.onnx", "y.onnx", "x.onnx"]
    assert tails(["a/b/m.onnx", "a/c/m.onnx"]) == ["b/m.onnx", "c/m.onnx"]
    assert tails(["alone.onnx"]) == ["alone.onnx"]
    assert tails([]) == []
    paths = [f"/a/very/long/way/to/the/files/{seed}/models/{id}/model.onnx" for id in "ab"]
    found = [replace(page_run.measurement(path, 1, 1, 0.1), model=path) for path in paths]
    for width in (80, 90, 100, 140):
        console = Console(width=width, file=io.StringIO())
        console.print(measurement_table(found, width))
        text = console.file.getvalue()
        assert "…" not in text
        assert "a/model.onnx" in text
        assert "b/model.onnx" in text
        assert "0.19 ms" in text  # p99 is always shown
