"""What a visitor can make the page read or fetch by naming it: nothing but their own uploads.

The page is asked what it consists of (`/config`), and every input of every event is given what it
must not take. Nothing here knows how the page refuses.
"""

import base64
import http.client
import itertools
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from gradio import processing_utils

from gemkit.app.page import file_access, page

SECRET = b"this-is-nobody's-business"
URL = "http://leak.example/picture.png"
LOGIN = ("me", "open sesame")
_TIMEOUT = 15
_KINDS: dict[str, dict[str, Any]] = {
    "open": {},
    "read-only": {"read_only": True},
    "password": {"login": LOGIN},
}


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, str]:
    """What must not be read; the last two never end."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(SECRET)
    os.symlink(secret, tmp_path / "link.png")
    os.mkfifo(tmp_path / "fifo.png")
    return {
        "file": str(secret),
        "link": str(tmp_path / "link.png"),
        "relative": os.path.relpath(secret),
        "folder": str(tmp_path),
        "URL": URL,
        "pipe": str(tmp_path / "fifo.png"),
        "device": "/dev/zero",
    }


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that Gradio was made to fetch, which then are not fetched."""
    asked: list[str] = []

    async def record(url: str, *_: Any, **__: Any) -> Any:
        asked.append(url)
        raise OSError("recorded instead of fetched")

    def record_now(url: str, *_: Any, **__: Any) -> Any:
        asked.append(url)
        raise OSError("recorded instead of fetched")

    for name in ("async_ssrf_protected_get", "async_ssrf_protected_download"):
        monkeypatch.setattr(processing_utils, name, record)
    for name in ("ssrf_protected_download", "unsafe_download", "save_url_to_cache"):
        monkeypatch.setattr(processing_utils, name, record_now)
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name.endswith(".example"):
            asked.append(name)
            raise socket.gaierror("recorded instead of looked up")
        return real(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


class _Visitor:
    """Sends anything, and keeps all that is answered."""

    def __init__(self, address: str, login: tuple[str, str] | None = None) -> None:
        self._host = urlsplit(address).netloc
        self._headers = {"content-type": "application/json"}
        if login is not None:
            pair = base64.b64encode(":".join(login).encode()).decode()
            self._headers["authorization"] = f"Basic {pair}"
        self._sessions = itertools.count()
        self.seen: list[bytes] = []
        self.hung: list[str] = []

    def ask(self, method: str, path: str, body: bytes | None = None, **more: str) -> bytes:
        """An answer's body; of a stream what comes until the event has ended."""
        try:
            content = self._answer(method, path, body, more)
        except TimeoutError:
            self.hung.append(f"{method} {path} {body!r}")
            return b""
        self.seen.append(content)
        return content

    def _answer(self, method: str, path: str, body: bytes | None, more: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT)
        connection.request(method, path, body, {**self._headers, **more})
        answer = connection.getresponse()
        if "event-stream" in (answer.headers["content-type"] or ""):
            content = b""
            for line in answer:
                content += line
                if b"process_completed" in line or b"close_stream" in line or b"error" in line:
                    break
        else:
            content = answer.read()
        connection.close()
        return content

    def send(self, body: dict[str, Any]) -> None:
        """Through the queue, and straight."""
        session = f"visitor{next(self._sessions)}"
        words = json.dumps({**body, "session_hash": session}).encode()
        answer = self.ask("POST", "/gradio_api/queue/join", words)
        if b"event_id" in answer:
            self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")
        self.ask("POST", "/gradio_api/run/predict", words)

    def upload(self, content: bytes, name: str = "a.png") -> str:
        """The path that an upload gets."""
        body = (
            b'--edge\r\ncontent-disposition: form-data; name="files"; filename="' + name.encode()
        ) + b'"\r\ncontent-type: image/png\r\n\r\n'
        body += content + b"\r\n--edge--\r\n"
        kind = "multipart/form-data; boundary=edge"
        (path,) = json.loads(self.ask("POST", "/gradio_api/upload", body, **{"content-type": kind}))
        return str(path)

    def follow(self) -> None:
        """Ask for every path that any answer named."""
        text = b"\n".join(self.seen).decode(errors="replace")
        names = set(re.findall(r"(?:/[^\s\"'<>\\]+)+", text))
        for name in sorted(names):
            if not name.startswith(("//", "/dev")):
                path = unquote(name.rpartition("/gradio_api/file=")[2])
                self.ask("GET", f"/gradio_api/file={quote(path)}")


def _disguises(target: str) -> list[Any]:
    """Ways to name a file to Gradio."""
    meta = {"meta": {"_type": "gradio.FileData"}}
    plain = {"path": target, **meta}
    return [
        plain,
        {"path": target},
        {"path": target, "url": target, "orig_name": "a.png", "size": 3, **meta},
        {"path": None, "url": target, **meta},
        {"path": "", "url": target, "is_stream": False, **meta},
        {"path": target, "is_stream": True, **meta},
        {"path": f"file://{target}", **meta},
        [[plain]],
        {"picture": {"inner": [plain]}},
        {**plain, "path": {"path": target, **meta}},
        target,
    ]


def _attack(visitor: _Visitor, targets: Iterable[str], disguises: int | None = None) -> int:
    """Give every input of every event everything until the page hangs; returns how often."""
    events = json.loads(visitor.ask("GET", "/config"))["dependencies"]
    visitor.seen.clear()
    sent = 0
    for target, event in itertools.product(targets, events):
        count, id = len(event["inputs"]), event["id"]
        for value in _disguises(target)[:disguises]:
            tried = [
                [None] * place + [value] + [None] * (count - place - 1) for place in range(count)
            ]
            for data in tried:
                visitor.send({"data": data, "fn_index": id})
            if not isinstance(value, str):
                visitor.send({"data": [value] * count, "fn_index": id, "event_data": value})
            sent += len(tried) + 1
            if visitor.hung:
                return sent
    return sent


@pytest.fixture
def visit(folder: Path) -> Iterator[Callable[[str], _Visitor]]:
    """Open a page of one of the kinds above."""
    servers = []

    def opened(kind: str) -> _Visitor:
        options: dict[str, Any] = _KINDS[kind]
        servers.append(page.launch(folder, "127.0.0.1", 0, **options))
        return _Visitor(servers[-1].address, options.get("login"))

    yield opened
    for server in servers:
        server.close()


@pytest.mark.parametrize("kind", _KINDS)
def test_no_event_reads_or_fetches_what_a_visitor_names(
    kind: str,
    visit: Callable[[str], _Visitor],
    targets: dict[str, str],
    fetched: list[str],
) -> None:
    visitor = visit(kind)
    ending = [target for kind, target in targets.items() if kind not in ("pipe", "device")]
    assert _attack(visitor, ending) > 100
    for target in ending:
        visitor.ask("GET", f"/gradio_api/file={quote(target)}")
    visitor.follow()
    assert not [answer for answer in visitor.seen if SECRET in answer]
    assert fetched == []
    assert not visitor.hung


def test_nothing_that_a_visitor_names_hangs_the_page(
    visit: Callable[[str], _Visitor], targets: dict[str, str]
) -> None:
    visitor = visit("read-only")
    _attack(visitor, [targets["pipe"], targets["device"]], disguises=3)
    for target in ("pipe", "device"):
        visitor.ask("GET", f"/gradio_api/file={quote(targets[target])}")
    assert not visitor.hung
    assert b"gradio" in visitor.ask("GET", "/")


def test_gradio_itself_refuses_paths_behind_our_own_check(
    visit: Callable[[str], _Visitor], targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of Gradio that no longer does would leave one lock where there are two."""
    monkeypatch.setattr(file_access, "names_only_uploads", lambda value: True)
    visitor = visit("read-only")
    _attack(visitor, [targets["file"], targets["link"]], disguises=1)
    visitor.follow()
    assert any(b"event_id" in answer for answer in visitor.seen)  # they did reach Gradio
    assert not [answer for answer in visitor.seen if SECRET in answer]


def test_an_upload_is_used_and_its_neighbours_are_not(
    visit: Callable[[str], _Visitor], tmp_path: Path
) -> None:
    visitor = visit("read-only")
    mine = visitor.upload(b"a picture")
    assert visitor.ask("GET", f"/gradio_api/file={mine}") == b"a picture"
    os.symlink(mine, Path(mine).with_name("link.png"))
    nothing = b"there is nothing here"
    for name in ("link.png", "missing.png", ""):
        assert visitor.ask("GET", f"/gradio_api/file={Path(mine).parent}/{name}") == nothing
    for value in ({"path": mine}, {"path": mine, "url": f"http://x/gradio_api/file={mine}"}):
        body = json.dumps({"fn_index": 0, "session_hash": "a", "data": [value]}).encode()
        assert b"event_id" in visitor.ask("POST", "/gradio_api/queue/join", body)
    for value in (
        {"path": f"{Path(mine).parent}/link.png"},
        {"path": f"{Path(mine).parent}/../{Path(mine).parent.name}/{Path(mine).name}"},
        {"path": mine, "url": URL},
        {"path": mine, "url": f"{URL}?/gradio_api/file={mine}x"},
    ):
        body = json.dumps({"fn_index": 0, "session_hash": "a", "data": [value]}).encode()
        assert b"uploaded to this page" in visitor.ask("POST", "/gradio_api/queue/join", body)


def test_what_is_read_in_two_ways_is_no_way_in(
    visit: Callable[[str], _Visitor], targets: dict[str, str]
) -> None:
    visitor = visit("read-only")
    secret = json.dumps(targets["file"])
    twice = f'{{"fn_index": 0, "session_hash": "a", "data": [], "data": [{{"path": {secret}}}]}}'
    once = f'{{"fn_index": 0, "session_hash": "a", "data": [{{"path": {secret}}}]}}'
    deep = "[" * 100_000
    for body in (twice.encode(), once.encode("utf-16"), once.encode("utf-32"), deep.encode()):
        answer = visitor.ask("POST", "/gradio_api/queue/join", body)
        assert b"only what was uploaded" in answer or b"JSON object" in answer
    answer = visitor.ask("POST", "/gradio_api/queue/join", once.encode(), **{"content-type": "x/y"})
    assert b"JSON object" in answer
