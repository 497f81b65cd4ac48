"""gemkit finds small image-classification networks that fit an edge device."""

from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError

__version__ = "0.1.0"

__all__ = ["Budget", "Cell", "UserError", "__version__"]
