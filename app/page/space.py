"""The page as a Hugging Face Space: the bundled run, for the public.

    python app/space.py        # or on a Space, whose README names this file as `app_file`

`gemkit space RUN --out DIR` makes the folder of a Space. The run is `space/run` there, or the
folder in GEMKIT_RUN. Visitors can neither search nor measure. Port and host are what a Space
expects.
"""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
if (_HERE / "gemkit" / "app").is_dir():  # a Space: gemkit is not installed but lies beside
    sys.path.insert(0, str(_HERE))

from gemkit.app.page import browser, page  # noqa: E402
from gemkit.errors import UserError  # noqa: E402


def main() -> None:
    """Serve until stopped; without onnxruntime-web where it cannot be fetched."""
    folder = Path(os.environ.get("GEMKIT_RUN") or _HERE / "space" / "run")
    try:
        browser.fetch_runtime()
    except UserError as error:
        print(f"gemkit: {error}", file=sys.stderr)
    try:
        server = page.launch(
            folder,
            os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
            int(os.environ.get("GRADIO_SERVER_PORT") or os.environ.get("PORT", "7860")),
            read_only=True,
            allow_host=None,  # a Space has several names, and nothing that only some may see
            framed_by=("https://huggingface.co", "https://*.huggingface.co"),
            root_path=os.environ.get("GRADIO_ROOT_PATH", ""),
        )
    except UserError as error:
        sys.exit(f"gemkit: {error}")
    print(f"the page is at {server.address}", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
