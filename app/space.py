"""The page as a Hugging Face Space: the bundled run, for the public.

    python app/space.py        # or on a Space, whose README names this file as `app_file`

The run is `space/run` beside this checkout, or the folder in GEMKIT_RUN. Visitors can neither
search nor measure there. Port and host are what a Space expects.
"""

import os
import sys
from pathlib import Path

from gemkit.app import browser, page
from gemkit.errors import UserError


def main() -> None:
    """Serve until stopped; without onnxruntime-web where it cannot be fetched."""
    here = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("GEMKIT_RUN") or here / "space" / "run")
    try:
        browser.fetch_runtime()
    except UserError as error:
        print(f"gemkit: {error}", file=sys.stderr)
    try:
        server = page.launch(
            folder,
            os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
            int(os.environ.get("PORT", "7860")),
            read_only=True,
        )
    except UserError as error:
        sys.exit(f"gemkit: {error}")
    print(f"the page is at {server.address}")
    server.wait()


if __name__ == "__main__":
    main()
