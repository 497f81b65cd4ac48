"""A report as Markdown and as one self-contained HTML file.

Its blocks are Markdown texts: paragraphs, and what the functions here make.
"""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from gemkit.files import write_text

FIGURES = "figures"
_OWN_FILE = re.compile(rf"(models|baselines|{FIGURES})/[^:]*$")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22303c; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #e4e8ec;
  white-space: nowrap; }
th { color: #5b6772; font-weight: 600; }
img { max-width: 100%; height: auto; margin: .5rem 0; }
pre, code { background: #f3f5f7; border-radius: 4px; padding: .1rem .3rem; }
pre { padding: .8rem; overflow-x: auto; } a { color: #2f74c0; }
"""


def code(text: str) -> str:
    """Lines as they are."""
    return f"```\n{text}\n```"


def picture(path: str, text: str) -> str:
    """A picture; its path is relative to the report's folder."""
    return f"![{text}]({path})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts under their heads."""
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in (heads, ["---"] * len(heads), *rows)
    )


def markdown(blocks: Sequence[str]) -> str:
    """The blocks as one text."""
    return "\n\n".join(blocks) + "\n"


def write(blocks: Sequence[str], title: str, folder: Path) -> Path:
    """Write `report.md` and `report.html` into a folder; gives the former's path."""
    path = folder / "report.md"
    write_text(path, markdown(blocks))
    write_text(folder / "report.html", page(blocks, title, folder))
    return path


def page(blocks: Sequence[str], title: str, folder: Path) -> str:
    """The blocks as one HTML file with its pictures inside.

    Args:
        folder: where the pictures' paths begin.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # Links to files of the run alone: names of data and classes are somebody else's text.
    parser.validateLink = lambda url: _OWN_FILE.match(url) is not None  # type: ignore[method-assign]

    def image(
        self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any
    ) -> str:
        data = base64.b64encode((folder / str(tokens[index].attrs["src"])).read_bytes()).decode()
        tokens[index].attrs["src"] = f"data:image/png;base64,{data}"
        return self.image(tokens, index, options, env)

    parser.add_render_rule("image", image)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"{parser.render(markdown(blocks))}</body></html>\n"
    )
