"""Makes the helpers beside these tests importable, and those of the search's tests."""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(_FOLDER.parent / "search"))
sys.path.append(str(_FOLDER))
