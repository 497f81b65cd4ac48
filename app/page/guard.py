"""What of the page may be asked, by whom and from where.

`Guard` stands before everything, Gradio included. It lets through the requests that the page itself
makes and refuses all others, asks for the password where one is set, and bounds what can be sent.
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import file_access

MAX_UPLOAD_BYTES = 10_000_000
_MAX_BODY_BYTES = 1_000_000
_MAX_UPLOADED_AN_HOUR = 2_000_000_000
_MAX_KEPT_BYTES = 32_000_000
_STARTUP = "/gradio_api/startup-events"
"""Gradio asks for it when it has started, without a password; it answers true or false."""
_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?"
    r"|/(assets|static|svelte)/[\w./@-]+|/page/[\w.]+|/run/[\w./-]+|/onnxruntime/[\w.-]+"
    r"|/gradio_api/(info/?|startup-events|theme\.css|app_id/?|upload_progress|queue/data"
    r"|heartbeat/\w+|file=.+)"
)
_LASTING = re.compile(r"/(assets|static|svelte)/[\w./@-]+")
_CALL = re.compile(r"/gradio_api/(queue/join|run/\w+/?)")
_WRITE = re.compile(rf"{_CALL.pattern}|/gradio_api/(upload|cancel|reset/?)")
_PLAIN_HEADERS = (b"host", b"accept", b"accept-encoding", b"user-agent")
"""What an answer that is kept for everybody may depend on: no range, no date of another copy."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """Who may use a page, and under which names.

    Attributes:
        listening: the address that the page listens on.
        login: user and password that everybody must give; None where the page is open.
        names: host names under which the page may be asked, beside those that belong to
            `listening`; None for any.
        framed_by: origins whose pages may show this one in a frame.
    """

    listening: str
    login: tuple[str, str] | None = None
    names: tuple[str, ...] | None = ()
    framed_by: tuple[str, ...] = ()

    def may_be_called(self, name: str) -> bool:
        """Whether the page goes by this host name.

        A foreign site can let its own name point here, and its scripts then count as the page's
        (DNS rebinding); an address in figures cannot be pointed anywhere.
        """
        name = name.lower().rstrip(".")
        if self.names is None or name in (*self.names, "localhost", self.listening.lower()):
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not is_local(self.listening))


def is_local(host: str) -> bool:
    """Whether only this machine itself can reach a host."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _host_name(netloc: str) -> str:
    """The name in "name:port"; empty where there is none."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


class _Refused(Exception):
    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        self.status, self.reason, self.headers = status, reason, headers


class Guard:
    """ASGI middleware that refuses what the page does not need; see the module's text.

    Attributes:
        app: what it guards.
        functions: Gradio's numbers of the page's functions; until they are set, nothing can be
            called.
    """

    def __init__(self, access: Access) -> None:
        self.app: App | None = None
        self.functions: frozenset[int] = frozenset()
        self._access = access
        self._uploads: deque[tuple[float, int]] = deque()
        self._kept: dict[tuple[str, bytes], list[Message]] = {}
        self._room = _MAX_KEPT_BYTES
        ancestors = " ".join(("'self'", *access.framed_by))
        self._headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"content-security-policy", f"frame-ancestors {ancestors}".encode()),
            # A page that shares its process with no other may use the browser's finest clock.
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-embedder-policy", b"require-corp"),
        ]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert self.app is not None
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page uses no web sockets

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        try:
            receive = await self._admitted(scope, receive)
        except _Refused as refused:
            kind = (b"content-type", b"text/plain; charset=utf-8")
            start = {"type": "http.response.start", "status": refused.status}
            await hardened({**start, "headers": [kind, *refused.headers]})
            await send({"type": "http.response.body", "body": refused.reason.encode()})
            return
        # Without an origin, Gradio names none that may read the answer.
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"origin"]
        scope = {**scope, "headers": headers}
        if scope["method"] == "GET" and _LASTING.fullmatch(scope["path"]):
            await self._answer_lasting(scope, receive, hardened)
        else:
            await self.app(scope, receive, hardened)

    # ---- what may enter

    async def _admitted(self, scope: Message, receive: Receive) -> Receive:
        """What a request brings along, once it is known to be harmless.

        Raises:
            _Refused: it is not one that the page makes.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        self._check_origin(headers, method)
        if path != _STARTUP and not self._knows(headers.get(b"authorization", b"")):
            await asyncio.sleep(0.3)  # guessing takes time
            login = (b"www-authenticate", b"Basic")
            raise _Refused(401, "a user name and a password are needed", login)
        allowed = _READ if method in ("GET", "HEAD") else _WRITE if method == "POST" else None
        raw = scope.get("raw_path", b"").lower()
        detour = ".." in path or "\\" in path or "\0" in path or b"%2e" in raw or b"%25" in raw
        if allowed is None or detour or not allowed.fullmatch(path):
            raise _Refused(404, "there is nothing here")
        named = file_access.served_path(path)
        if named is not None and not file_access.is_upload(named):
            raise _Refused(404, "there is nothing here")
        upload = path == "/gradio_api/upload"
        limit = MAX_UPLOAD_BYTES + 100_000 if upload else _MAX_BODY_BYTES
        if upload and b"content-length" not in headers:
            raise _Refused(411, "say how long the file is")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            raise _Refused(413, f"at most {limit // 1_000_000} MB can be sent")
        if upload and not self._room_for(int(length)):
            raise _Refused(503, "too much was uploaded in the last hour: try again later")
        bounded = _bounded(receive, limit)
        if method != "POST" or upload:
            return bounded
        return await self._checked_call(scope, headers, bounded)

    def _check_origin(self, headers: dict[bytes, bytes], method: str) -> None:
        """Refuse requests under a foreign name, and those that another site's page makes.

        Raises:
            _Refused: it is one.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        name = _host_name(host)
        if not self._access.may_be_called(name):
            raise _Refused(
                421, f"this page does not go by the name {name}: allow it with --allow-host {name}"
            )
        site = headers.get(b"sec-fetch-site")
        if site in (b"cross-site", b"same-site"):
            # A link from another site may lead here.
            if method != "GET" or headers.get(b"sec-fetch-mode") != b"navigate":
                raise _Refused(403, "another site's page asked for this")
        elif site is None and b"origin" in headers:
            origin = urlsplit(headers[b"origin"].decode("latin-1")).netloc
            forwarded = headers.get(b"x-forwarded-host", b"").decode("latin-1").partition(",")[0]
            own = origin in (host, forwarded.strip()) or _host_name(origin) in (
                self._access.names or ()
            )
            if not origin or not own:
                raise _Refused(403, "another site's page asked for this")

    def _knows(self, given: bytes) -> bool:
        """Whether an authorization header holds the password."""
        if self._access.login is None:
            return True
        kind, _, rest = given.partition(b" ")
        if kind.lower() != b"basic":
            return False
        try:
            pair = base64.b64decode(rest, validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(pair, ":".join(self._access.login).encode())

    def _room_for(self, size: int) -> bool:
        now = time.monotonic()
        while self._uploads and self._uploads[0][0] < now - 3600:
            self._uploads.popleft()
        if sum(each for _, each in self._uploads) + size > _MAX_UPLOADED_AN_HOUR:
            return False
        self._uploads.append((now, size))
        return True

    async def _checked_call(
        self, scope: Message, headers: dict[bytes, bytes], receive: Receive
    ) -> Receive:
        """A call's JSON, read once here and written anew, so that Gradio cannot read it otherwise.

        Raises:
            _Refused: it is none, or names a file or a function that it must not.
        """
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Refused(400, "the request broke off")
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        try:
            value = json.loads(body)
            body = json.dumps(value).encode()
        except (ValueError, RecursionError):
            value = None
        if kind != b"application/json" or not isinstance(value, dict):
            raise _Refused(400, "this takes a JSON object")
        if not file_access.names_only_uploads(value):
            raise _Refused(400, "only what was uploaded to this page can be used")
        if _CALL.fullmatch(scope["path"]):
            function = value.get("fn_index")
            if type(function) is not int or function not in self.functions:
                raise _Refused(404, "there is no such function")
        scope["headers"] = [
            *(pair for pair in scope["headers"] if pair[0].lower() != b"content-length"),
            (b"content-length", str(len(body)).encode()),
        ]
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    # ---- what is kept

    async def _answer_lasting(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what never changes while the page runs from memory, once it has been asked for.

        Opening the page asks for some seventy scripts and styles of Gradio's, which takes it
        milliseconds each.
        """
        assert self.app is not None
        encoding = next((v for k, v in scope["headers"] if k.lower() == b"accept-encoding"), b"")
        asked = (scope["path"], encoding[:100])
        if asked in self._kept:
            for message in self._kept[asked]:
                await send({**message})
            return
        answer: list[Message] = []

        async def noted(message: Message) -> None:
            answer.append({**message})
            await send(message)

        plain = [pair for pair in scope["headers"] if pair[0].lower() in _PLAIN_HEADERS]
        await self.app({**scope, "headers": plain}, receive, noted)
        size = sum(len(message.get("body", b"")) for message in answer)
        whole = len(answer) > 1 and not answer[-1].get("more_body")
        if whole and answer[0].get("status") == 200 and size <= self._room:
            self._room -= size
            self._kept[asked] = answer


def _bounded(receive: Receive, limit: int) -> Receive:
    """Break a request off that sends more than it may."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > limit else message

    return bounded
