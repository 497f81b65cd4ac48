"""Opening ONNX files, also of others: whole, with weights that lie beside them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from gemkit.errors import UserError
from gemkit.files import is_file, unreadable


def load_onnx(path: Path | str) -> onnx.ModelProto:
    """Read an ONNX file with its weights.

    Raises:
        UserError: the file is missing, damaged or no ONNX, or its external data are missing or
            lie outside its folder.
    """
    path = Path(path)
    if not is_file(path):
        raise UserError(f"there is no file {path}")
    try:
        model = onnx.load_model(path, "protobuf", load_external_data=False)
    except OSError as error:
        raise unreadable(error, path) from None
    except DecodeError:
        model = onnx.ModelProto()
    # protobuf gives a text that is no UTF-8 as bytes
    whole = all(isinstance(text, str) for text in _texts(model))
    if not model.graph.node or not model.opset_import or not whole:
        raise UserError(f"{path} is no whole ONNX file: it is damaged, cut short or something else")
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        target = (path.parent / place).resolve()
        if Path(place).is_absolute() or not target.is_relative_to(path.parent.resolve()):
            raise UserError(f"{path} keeps weights outside its folder ({place}): refused")
        if not is_file(target):
            raise UserError(f"{path} keeps its weights in {place}, which is missing beside it")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError):
        raise UserError(f"{path} keeps weights in another file that cannot be read") from None
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """The texts of a file that others rely on."""
    for node in model.graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
    for tensor in model.graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
