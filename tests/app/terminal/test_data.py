"""`gemkit data` on the command line: its text, its JSON and its picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemkit.app import cli
from gemkit.app.report.contact_sheet import contact_sheet
from gemkit.survey import survey


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("cat", 20), ("[dog] $x", 6)):
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "my photos"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", *words])
    return int(ended.value.code or 0)


def test_a_look_is_printed_and_drawn(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = photos.parent / "sheet.png"
    assert run(f"imagefolder:{photos}@8", "--out", str(picture)) == 0
    said = capsys.readouterr().out
    for part in ("20 images of 2 classes", "[dog] $x", "warning: ", "seen with 8x8, in colour"):
        assert part in said
    with Image.open(picture) as opened:
        assert min(opened.size) > 100
    assert run(f"imagefolder:{photos}@8", "--out", str(photos.parent / "sheet.gif")) == 2


def test_next_can_be_pasted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "0.png").write_bytes(b"")
    assert run(f"imagefolder:{photos}@8") == 0
    said = capsys.readouterr().out
    assert f"next: gemkit data 'imagefolder:{photos}@8' --skip-unusable" in said.replace("\n", "")
    assert run(f"imagefolder:{photos}@8", "--skip-unusable", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unusable"] == []
    assert found["skipped"][0]["files"] == [str(photos / "cat" / "0.png")]
    assert found["images"]["training"] == [5, 15]


def test_the_sheet_shows_the_images(photos: Path) -> None:
    """Every pixel of a sample is on the sheet, enlarged."""
    found = survey(f"imagefolder:{photos}@8", samples=2)
    (axes,) = contact_sheet(found).axes
    sheet = np.asarray(axes.get_images()[0].get_array())
    first = found.samples["training"][0][1, 1].repeat(6, axis=0).repeat(6, axis=1)
    high, wide = 8 * 6 + 4, 8 * 6 + 4
    assert np.array_equal(sheet[high : high + 48, wide : wide + 48], first)
    assert [text.get_text().split("\n")[1] for text in axes.get_yticklabels()] == [
        "5 / 1",
        "15 / 5",
    ]
