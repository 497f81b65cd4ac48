"""Files are whole or absent."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gemkit.errors import UserError
from gemkit.files import (
    check_format,
    read_arrays,
    read_json,
    replacing,
    write_json,
    write_text,
)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_new_files_get_the_usual_permissions(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    write_text(tmp_path / "ours", "text")
    assert stat.S_IMODE(os.stat(tmp_path / "ours").st_mode) == stat.S_IMODE(os.stat(usual).st_mode)


def test_threads_that_write_at_once_leave_the_umask_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    umask = os.umask

    def slow(mask: int) -> int:
        before = umask(mask)
        time.sleep(0.01)
        return before

    given = umask(0o27)
    try:
        monkeypatch.setattr(os, "umask", slow)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: write_text(tmp_path / str(number), ""), range(12)))
        assert umask(0o27) == 0o27
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    finally:
        umask(given)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "value.json"
    path.write_text(f'{{"value": {number}}}')
    with pytest.raises(UserError, match="is no valid JSON"):
        read_json(path)


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}
    for name, content in (
        ("bad.json", b"{"),
        ("binary.json", b"\xff\xfe"),
        ("deep.json", b"[" * 10**5),
        ("long.json", b"1" * 5000),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_of_any_editor_is_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\r\n "é": 1\r\n}\r\n', encoding=encoding, newline="")
    assert read_json(tmp_path / "a.json") == {"é": 1}


@pytest.mark.parametrize("found", [None, "1", True, 0, -1, 1.0])
def test_what_names_no_format_is_damaged(found: object) -> None:
    with pytest.raises(UserError, match="it names no format"):
        check_format(found, 3, "a file")


def test_newer_formats_alone_are_refused() -> None:
    for known in (1, 2, 3):
        check_format(known, 3, "a file")
    with pytest.raises(UserError, match="newer gemkit"):
        check_format(4, 3, "a file")


def test_arrays_of_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", numbers=np.arange(3), objects=np.array([{}, "x"], dtype=object))
    with pytest.raises(UserError, match="'objects' holds Python objects"):
        read_arrays(tmp_path / "a.npz")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "text")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="disk is full"),
        replacing(tmp_path / "x"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 10**6)
