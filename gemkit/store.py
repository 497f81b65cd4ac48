"""The run store: a folder that holds everything a search did, written as it happens.

    runs/NAME/config.json   what repeats the run, with versions and machine
    runs/NAME/search.db     SQLite (WAL): trials, models, baselines, settings
    runs/NAME/models/ID/    what training and export deliver (written by others)

A run exists from the moment its `config.json` does; that file is written last. One process
writes, any number read at the same time. The writer's lock is an operating system's file lock
and ends with the process, however it ends. Every change is one transaction, so a killed process
leaves either the state before it or the state after it.
"""

import json
import math
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gemkit import machine
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.errors import UserError
from gemkit.files import check_format, explain, is_file, is_folder, read_json, write_json

FORMAT = 1
"""Version of the folder's layout and of the tables; a newer one is refused."""
STATES = ("queued", "running", "done", "failed")
"""What can be said of a trial or a model."""

_CONFIG = "config.json"
_DATABASE = "search.db"
_LOCK = ".lock"
_NAMED = 5  # runs in a sentence
_ATTEMPTS, _A_MOMENT = 5, 0.02  # to lock a run; seconds between them
_SIDE_FILES = 128_000
"""Bytes that SQLite may need beside the database, for its log and the index of that."""
_OF_AN_UNBORN_RUN = re.compile(
    rf"{re.escape(_LOCK)}|{re.escape(_DATABASE)}(-wal|-shm|-journal)?|\.{re.escape(_CONFIG)}\..+"
)
"""Names of what a process killed before writing its configuration leaves."""

_STATE_CHECK = f"CHECK (state IN {STATES})"
_SCHEMA = f"""
CREATE TABLE trials (
    "index" INTEGER PRIMARY KEY, id TEXT NOT NULL, key TEXT NOT NULL UNIQUE, cell TEXT NOT NULL,
    width INTEGER NOT NULL, macs INTEGER NOT NULL, params INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL, latency_ms TEXT, round INTEGER NOT NULL,
    seed INTEGER NOT NULL, epochs INTEGER NOT NULL, state TEXT NOT NULL {_STATE_CHECK},
    accuracy REAL, error TEXT, started TEXT, ended TEXT, seconds REAL, extra TEXT NOT NULL
);
CREATE TABLE models (
    id TEXT PRIMARY KEY, cell TEXT, width INTEGER, macs INTEGER, params INTEGER,
    peak_memory_bytes INTEGER, latency_ms TEXT, accuracy REAL, onnx TEXT, parity_max_abs REAL,
    seed INTEGER, epochs INTEGER, state TEXT NOT NULL {_STATE_CHECK}, error TEXT, seconds REAL,
    measurements TEXT, extra TEXT
);
CREATE TABLE baselines (
    id TEXT PRIMARY KEY, macs INTEGER, params INTEGER,
    peak_memory_bytes INTEGER, latency_ms TEXT, accuracy REAL, onnx TEXT, parity_max_abs REAL,
    seed INTEGER, epochs INTEGER, state TEXT NOT NULL {_STATE_CHECK}, error TEXT, seconds REAL,
    measurements TEXT, extra TEXT
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_TABLES = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
_JSON_COLUMNS = {"cell": dict, "latency_ms": dict, "extra": dict, "measurements": list}
_TEXT_COLUMNS = ("id", "key", "state", "error", "started", "ended", "onnx")
_REAL_COLUMNS = ("accuracy", "seconds", "parity_max_abs")


@dataclass(frozen=True)
class Trial:
    """One architecture evaluated on the proxy task.

    Attributes:
        index: position in the run, from 0; with the run's seed it decides the trial's seed.
        round: the search round that proposed it; 0 is the first sample.
        key: canonical key; no two trials of a run share it.
        width: channels of the first stage.
        latency_ms: predicted latency, None when the run has no latency model.
        epochs: how long it is trained.
        accuracy: on the proxy's validation part, a fraction; None unless done.
        error: why it failed.
        started, ended: time of day (UTC, ISO 8601); nothing is decided by them.
        seconds: how long the trial took.
        extra: what else is known, for example {"predicted": {"mean": ..., "std": ...}}.
    """

    index: int
    round: int
    key: str
    cell: Cell
    width: int
    macs: int
    params: int
    peak_memory_bytes: int
    seed: int
    epochs: int
    latency_ms: float | None = None
    state: str = "queued"
    accuracy: float | None = None
    error: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Short name: the first ten digits of the key."""
        return self.key[:10]

    def to_json(self) -> dict[str, Any]:
        """The trial under the names that programs read."""
        latency = None if self.latency_ms is None else {"p50": self.latency_ms}
        return {
            "id": self.id,
            "index": self.index,
            "round": self.round,
            "key": self.key,
            "state": self.state,
            "cell": self.cell.to_json(),
            "width": self.width,
            "accuracy": self.accuracy,
            "macs": self.macs,
            "params": self.params,
            "peak_memory_bytes": self.peak_memory_bytes,
            "latency_ms": latency,
            "epochs": self.epochs,
            "seed": self.seed,
            "error": self.error,
            "started": self.started,
            "ended": self.ended,
            "seconds": self.seconds,
            "extra": self.extra,
        }


class Run:
    """An open run folder; a context manager that closes it.

    Use `Run.create`, `Run.open` or `Run.start`, not the constructor.

    Attributes:
        path: the folder.
        config: what was asked for: the options that repeat the run, "budget" and "seed" among
            them.
        about: the whole of `config.json`: config, format, creation time, machine, versions.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        connection: sqlite3.Connection,
        lock: IO[str] | None,
    ) -> None:
        self.path = path
        self.about = about
        self.config: dict[str, Any] = about["config"]
        self._connection = connection
        self._lock = lock

    # -- opening and closing

    @classmethod
    def create(cls, path: Path | str, config: Mapping[str, Any]) -> Self:
        """Begin a run in a new or empty folder and open it for writing.

        Args:
            config: plain JSON values; "budget" (as `Budget.to_json` gives it) and "seed" must be
                among them.

        Raises:
            UserError: the folder holds a run or something else, or cannot be written.
        """
        path = Path(path)
        if is_file(path / _CONFIG):
            raise UserError(
                f"{path} already holds a run: continue it with --resume or choose another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            others = [
                entry.name
                for entry in path.iterdir()
                if not _OF_AN_UNBORN_RUN.fullmatch(entry.name) or entry.is_dir()
            ]
        except OSError as error:
            raise explain(error, path) from None
        if others:
            raise UserError(
                f"{path} is not empty and holds no run (it has {sorted(others)[0]!r}): "
                "choose another folder"
            )
        lock = _take_lock(path)
        try:
            if (path / _CONFIG).exists():  # another process was faster
                raise UserError(f"{path} already holds a run: choose another --out")
            for entry in path.iterdir():
                if _OF_AN_UNBORN_RUN.fullmatch(entry.name) and entry.name != _LOCK:
                    entry.unlink()
            connection = _connect(path, write=True)
            with _explained(path), connection:
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT")
            about = {
                "format": FORMAT,
                "created": now(),
                "config": json.loads(json.dumps(dict(config), allow_nan=False)),
                "machine": machine.describe_machine(),
                "versions": machine.versions(),
            }
            _check_about(about, path / _CONFIG)
            write_json(path / _CONFIG, about)
        except BaseException:
            lock.close()
            raise
        return cls(path, about, connection, lock)

    @classmethod
    def open(cls, path: Path | str, write: bool = False) -> Self:
        """Open an existing run: for reading (also while another process writes) or for writing.

        Opening for writing returns trials that a killed process left `running` to `queued`.

        Raises:
            UserError: no run, damaged, written by a newer version, or (for writing) in use.
        """
        path = Path(path)
        about = _read_about(path)
        lock = _take_lock(path) if write else None
        try:
            connection = _connect(path, write)
            run = cls(path, about, connection, lock)
        except BaseException:
            if lock:
                lock.close()
            raise
        try:
            run._check_database()
            if write:
                run._requeue()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def start(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        resume: bool = False,
        changeable: Sequence[str] = (),
    ) -> Self:
        """Begin a run, or with `resume` continue the one in the folder; open for writing.

        A folder without a run (also one that was killed before its configuration was written)
        is begun in either case.

        Args:
            changeable: names in `config` that may differ from the stored configuration because
                they decide no result (number of workers, time limit).

        Raises:
            UserError: the folder holds a run and `resume` is false, or its configuration is
                another one; the sentence shows the difference.
        """
        path = Path(path)
        if not (resume and is_file(path / _CONFIG)):
            return cls.create(path, config)
        stored = _read_about(path)["config"]
        given = json.loads(json.dumps(dict(config), allow_nan=False))
        different = list(_differences(stored, given, changeable))
        if different:
            raise UserError(
                f"{path} was begun with another configuration: {'; '.join(different)}. "
                "Resume with the same options or choose another --out"
            )
        return cls.open(path, write=True)

    def close(self) -> None:
        """Close the database and give the lock back."""
        self._connection.close()
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def budget(self) -> Budget:
        """The run's hard limits."""
        return Budget.from_json(self.config["budget"], where=f"{self.path / _CONFIG}: budget")

    @property
    def seed(self) -> int:
        """The seed from which every random stream of the run is derived."""
        return int(self.config["seed"])

    # -- trials

    def trials(self) -> list[Trial]:
        """All trials in the order of their index."""
        return [self._trial(row) for row in self._rows("trials", 'ORDER BY "index"')]

    def trial_summaries(self) -> list[dict[str, Any]]:
        """All trials as plain values, the numbers of `nodes` and `edges` in place of the cell.

        Reading the cells of ten thousand trials takes seconds; this does not. `latency_ms` is
        the p50 alone.
        """
        columns = (
            '"index", id, round, state, accuracy, macs, params, peak_memory_bytes, width, epochs, '
            "error, json_extract(latency_ms, '$.p50') AS latency_ms, "
            "json_array_length(cell, '$.operations') - 1 AS nodes, "
            "json_array_length(cell, '$.edges') AS edges"
        )
        with _explained(self.path):
            cursor = self._connection.execute(f'SELECT {columns} FROM trials ORDER BY "index"')
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def trials_named(self, id: str) -> list[Trial]:
        """The trials of an id: none or one, but for ids that happen to begin alike."""
        # An id is the beginning of a key (hexadecimal), and only keys have an index.
        rest = "WHERE key >= ? AND key < ? AND id = ?"
        return [self._trial(row) for row in self._rows("trials", rest, (id, f"{id}g", id))]

    def is_being_written(self) -> bool:
        """Whether some process has the run open for writing at this moment."""
        return _is_locked(self.path)

    def change_count(self) -> int:
        """A number that is another one after another process has changed the database."""
        with _explained(self.path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def add_trials(self, trials: Iterable[Trial]) -> None:
        """Store proposed trials: all of them or, when the process dies meanwhile, none."""
        rows = []
        for trial in trials:
            values = trial.to_json()
            rows.append({name: _encoded(name, value) for name, value in values.items()})
        if not rows:
            return
        names = list(rows[0])
        columns = ", ".join(f'"{name}"' for name in names)
        marks = ", ".join(f":{name}" for name in names)
        with _explained(self.path), self._connection:
            self._connection.executemany(f"INSERT INTO trials ({columns}) VALUES ({marks})", rows)

    def trial_started(self, index: int) -> None:
        """Mark a trial as running."""
        self._update_trial(index, state="running", started=now())

    def trial_done(
        self, index: int, accuracy: float, seconds: float, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Store a trial's result; `extra` is added to what the trial's extra holds."""
        if not math.isfinite(accuracy):
            raise ValueError(f"accuracy of trial {index} is {accuracy}: store it as failed")
        self._update_trial(
            index,
            extra,
            state="done",
            accuracy=accuracy,
            seconds=seconds,
            error=None,
            ended=now(),
        )

    def trial_failed(self, index: int, error: str, seconds: float | None = None) -> None:
        """Store that a trial failed and why."""
        self._update_trial(
            index, state="failed", accuracy=None, error=error, seconds=seconds, ended=now()
        )

    def trial_queued(self, index: int, epochs: int, extra: Mapping[str, Any] | None = None) -> None:
        """Put a trial back into the queue, to be trained for `epochs`."""
        self._update_trial(index, extra, state="queued", accuracy=None, error=None, epochs=epochs)

    def trial_restored(
        self, index: int, epochs: int, accuracy: float, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Return a trial that was queued again to the result it had before."""
        self._update_trial(index, extra, state="done", accuracy=accuracy, epochs=epochs)

    def remove_trial(self, index: int) -> None:
        """Forget a trial that was never run."""
        with _explained(self.path), self._connection:
            self._connection.execute('DELETE FROM trials WHERE "index" = ?', (index,))

    def _update_trial(
        self, index: int, extra: Mapping[str, Any] | None = None, **values: Any
    ) -> None:
        if extra:
            (known,) = self._rows("trials", 'WHERE "index" = ?', (index,))
            values["extra"] = {**known["extra"], **extra}
        with _explained(self.path), self._connection:
            self._connection.execute(
                f'UPDATE trials SET {_assignments(values)} WHERE "index" = :index',
                {name: _encoded(name, value) for name, value in values.items()} | {"index": index},
            )

    def _trial(self, row: dict[str, Any]) -> Trial:
        row = dict(row)
        where = f"{self.path / _DATABASE}, trial {row['index']}"
        row.pop("id")
        latency = (row.pop("latency_ms") or {}).get("p50")
        return Trial(
            **{**row, "latency_ms": latency, "cell": Cell.from_json(row["cell"], where=where)}
        )

    def _requeue(self) -> None:
        with _explained(self.path), self._connection:
            self._connection.execute(
                "UPDATE trials SET state = 'queued', started = NULL WHERE state = 'running'"
            )

    # -- models, baselines, settings

    def models(self) -> list[dict[str, Any]]:
        """The trained networks, under the names that programs read, in the order stored."""
        return self._rows("models", "ORDER BY rowid")

    def baselines(self) -> list[dict[str, Any]]:
        """The networks to compare with, as `models` without cell and width."""
        return self._rows("baselines", "ORDER BY rowid")

    def put_model(self, id: str, **values: Any) -> None:
        """Store some values of a model; those not named keep what they were.

        Args:
            id: the model's name.
            values: by column name; `cell` as `Cell.to_json` gives it, `latency_ms` a dictionary
                with p50 and so on, `measurements` a list, `onnx` relative to the run.
        """
        self._put("models", id, values)

    def put_baseline(self, id: str, **values: Any) -> None:
        """Store some values of a baseline; see `put_model`."""
        self._put("baselines", id, values)

    def _put(self, table: str, id: str, values: Mapping[str, Any]) -> None:
        encoded = {name: _encoded(name, value) for name, value in values.items()}
        with _explained(self.path), self._connection:
            self._connection.execute(
                f"INSERT OR IGNORE INTO {table} (id, state) VALUES (?, 'queued')", (id,)
            )
            if encoded:
                self._connection.execute(
                    f"UPDATE {table} SET {_assignments(encoded)} WHERE id = :id",
                    encoded | {"id": id},
                )

    def setting(self, name: str, default: Any = None) -> Any:
        """A stored value, or `default`."""
        with _explained(self.path):
            found = self._connection.execute(
                "SELECT value FROM settings WHERE name = ?", (name,)
            ).fetchone()
        return default if found is None else self._decoded_json(found[0], f"setting {name!r}")

    def set_setting(self, name: str, value: Any) -> None:
        """Store a JSON value under a name, for example what a step must remember on resume."""
        with _explained(self.path), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                (name, json.dumps(value, allow_nan=False)),
            )

    def to_json(self) -> dict[str, Any]:
        """The whole run under the names that programs read."""
        return {
            "run": {
                "id": self.name,
                "created": self.about["created"],
                "seed": self.seed,
                "config": self.config,
                "machine": self.about["machine"],
                "versions": self.about["versions"],
            },
            "budget": self.config["budget"],
            "trials": [trial.to_json() for trial in self.trials()],
            "models": self.models(),
            "baselines": self.baselines(),
        }

    # -- reading rows

    def _rows(self, table: str, rest: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with _explained(self.path):
            cursor = self._connection.execute(f"SELECT * FROM {table} {rest}", values)
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return [self._decoded(table, dict(zip(names, row, strict=True))) for row in rows]

    def _decoded(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        """Turn a row's text into values; what SQLite lets pass but we never wrote is damage."""
        where = f"{table} row {row.get('index', row.get('id'))!r}"
        decoded: dict[str, Any] = {}
        for name, value in row.items():
            kind: type | tuple[type, ...]
            if name in _JSON_COLUMNS:
                kind = _JSON_COLUMNS[name]
                value = None if value is None else self._decoded_json(value, where)
            elif name in _TEXT_COLUMNS:
                kind = str
            elif name in _REAL_COLUMNS:
                kind = (float, int)
            else:
                kind = int
            if value is not None and not isinstance(value, kind):
                raise self._damaged(f"{where} has {name} {value!r}")
            decoded[name] = value
        return decoded

    def _decoded_json(self, text: Any, where: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise self._damaged(f"{where} holds no JSON") from None

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path / _DATABASE} is damaged: {what}")

    def _check_database(self) -> None:
        with _explained(self.path):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version:  # 0 is what any other database has
                check_format(version, FORMAT, str(self.path))
            sound = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = set(self._connection.execute(_TABLES))
        if sound != "ok":
            raise self._damaged(str(sound).splitlines()[-1])
        with closing(sqlite3.connect(":memory:")) as empty:
            empty.executescript(_SCHEMA)
            wanted = set(empty.execute(_TABLES))
        if version != FORMAT or tables != wanted:
            raise self._damaged("its tables are not those of a run")


def is_run(path: Path | str) -> bool:
    """Whether a folder holds a run (its configuration was written)."""
    return is_file(Path(path) / _CONFIG)


def now() -> str:
    """The time of day in UTC, for people; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read_about(path: Path) -> dict[str, Any]:
    if not is_folder(path):
        raise UserError(f"{path} is no folder: name the folder of a run{_runs_beside(path)}")
    file = path / _CONFIG
    if not is_file(file):
        raise UserError(f"{path} holds no run: it has no {_CONFIG}")
    about = read_json(file)
    _check_about(about, file)
    if not is_file(path / _DATABASE):
        raise UserError(f"{path} is incomplete: it has no {_DATABASE}")
    return dict(about)


def _runs_beside(path: Path) -> str:
    """The runs in the folder where one was looked for, as the end of a sentence."""
    try:
        there = sorted(str(one) for one in path.parent.iterdir() if is_run(one))
    except (OSError, ValueError, UserError):
        return ""
    return f", one of {', '.join(there[:_NAMED])}" if there else ""


def _check_about(about: Any, file: Path) -> None:
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise UserError(f"{file} is no run's configuration: it names no format")
    check_format(about["format"], FORMAT, str(file.parent))
    for name, kind in (("config", dict), ("machine", dict), ("versions", dict), ("created", str)):
        if not isinstance(about.get(name), kind):
            raise UserError(f"{file} is no run's configuration: {name!r} is missing or damaged")
    config = about["config"]
    Budget.from_json(config.get("budget"), where=f"{file}: budget")
    if not isinstance(config.get("seed"), int) or isinstance(config["seed"], bool):
        raise UserError(f"{file}: 'seed' must be a whole number")


def _differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], changeable: Sequence[str], prefix: str = ""
) -> Iterator[str]:
    for name in sorted({*stored, *given} - set(changeable)):
        old, new = stored.get(name), given.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, (), f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} was {json.dumps(old)}, now {json.dumps(new)}"


def _take_lock(path: Path) -> IO[str]:
    """Lock the folder for this process until the returned file is closed."""
    import fcntl

    try:
        lock = open(path / _LOCK, "a")  # noqa: SIM115  (held as long as the run is open)
    except OSError as error:
        raise explain(error, path) from None
    for _ in range(_ATTEMPTS):  # who only looks whether there is a writer holds it for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_A_MOMENT)
        else:
            return lock
    lock.close()
    raise UserError(
        f"another process is writing to {path}: wait for it to end or choose another --out"
    )


def _is_locked(path: Path) -> bool:
    import fcntl

    try:
        with open(path / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no writer has been there, or the file system knows no locks
        return False
    return False


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    file = path / _DATABASE
    address = file.resolve().as_uri()
    with _explained(path):
        if write:
            connection = sqlite3.connect(f"{address}?mode=rwc", uri=True, timeout=30)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            return connection
        connection = sqlite3.connect(
            f"{address}?mode=ro", uri=True, timeout=30, check_same_thread=False
        )
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # WAL needs its side files, which cannot be made in a read-only folder. Without
            # anything in the log, the file can be read as it stands.
            log = file.with_name(f"{_DATABASE}-wal")
            if log.exists() and log.stat().st_size:
                raise
            connection.close()
            connection = sqlite3.connect(
                f"{address}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
    return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in one sentence what SQLite refuses to do because of the file, not because of us."""
    file = path / _DATABASE
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        text = str(error).partition("\n")[0]
        if "full" in text or ("disk I/O" in text and _is_full(path)):
            raise UserError(f"the disk is full: {file} could not be written") from None
        if "readonly" in text or "unable to open" in text:
            raise UserError(f"{file} cannot be opened: {text}") from None
        if "locked" in text:
            raise UserError(f"{file} is locked by another program: try again later") from None
        raise UserError(f"{file} or its disk is damaged: {text}") from None


def _is_full(path: Path) -> bool:
    """Whether the disk lacks the room for SQLite's side files, which it does not always say."""
    try:
        return shutil.disk_usage(path).free < _SIDE_FILES
    except OSError:
        return False


def _encoded(name: str, value: Any) -> Any:
    if name in _JSON_COLUMNS and value is not None:
        return json.dumps(value, allow_nan=False)
    return value


def _assignments(values: Iterable[str]) -> str:
    return ", ".join(f'"{name}" = :{name}' for name in values)
