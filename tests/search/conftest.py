"""Makes the helpers beside these tests importable, whichever of the tests run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
