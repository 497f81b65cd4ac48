"""ONNX files made by hand."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper


def model(
    path: Path, shape: Sequence = ("batch", 4, 8, 8), op: str = "Relu", domain: str = ""
) -> str:
    """A file of one operator."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return str(path)
