"""The run store: a folder that holds everything a search did, written as it happens.

    runs/NAME/config.json   what repeats the run, with versions and machine
    runs/NAME/search.db     SQLite (WAL): trials, models, baselines, compared, settings
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
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar, get_args, overload

import msgspec

from gemkit import machine
from gemkit.budget import Budget
from gemkit.errors import UserError
from gemkit.files import check_format, explain, is_file, is_folder, read_json, write_json
from gemkit.recommendation import fastest_file, recommend
from gemkit.records import (
    Baseline,
    Compared,
    Measurement,
    Model,
    Network,
    Recommendation,
    RunContent,
    RunInfo,
    ShortTraining,
    State,
    Trial,
    TrialSummary,
    plain,
    read,
)

FORMAT = 2
"""Version of the tables; a newer one is refused, an older one read, and renewed by who writes."""
FOLDER_FORMAT = 1
"""Version of the folder's layout, in its configuration."""

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

_STATE_CHECK = f"CHECK (state IN {get_args(State)})"
_FORMAT_1 = f"""
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
_FORMAT_2 = f"""
CREATE TABLE compared (
    id TEXT PRIMARY KEY, network TEXT NOT NULL, macs INTEGER, params INTEGER,
    peak_memory_bytes INTEGER, latency_ms TEXT, accuracy REAL, onnx TEXT, parity_max_abs REAL,
    seed INTEGER, epochs INTEGER, state TEXT NOT NULL {_STATE_CHECK}, error TEXT, seconds REAL,
    measurements TEXT, extra TEXT
);
"""
_SCHEMAS = {1: _FORMAT_1, 2: _FORMAT_1 + _FORMAT_2}
_AS_COMPARED = """
SELECT id, substr(id, 1, instr(id, '@') - 1) AS network, macs, params, peak_memory_bytes,
    latency_ms, accuracy, onnx, parity_max_abs, seed, epochs, state, error, seconds, measurements,
    extra
FROM main.baselines WHERE instr(id, '@')
"""
"""A comparison's trainings in format 1, which kept them among the baselines."""
_TABLES = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
_JSON_COLUMNS = ("cell", "latency_ms", "extra", "measurements")
_TABLE_OF: dict[type, str] = {
    Trial: "trials",
    Model: "models",
    Baseline: "baselines",
    Compared: "compared",
}

Kind = TypeVar("Kind")
AnyStored = TypeVar("AnyStored", Trial, Model, Baseline, Compared)


class Run:
    """An open run folder; a context manager that closes it.

    Use `Run.create`, `Run.open` or `Run.start`, not the constructor.

    Attributes:
        path: the folder.
        info: its configuration, with the machine and the versions that began it.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        connection: sqlite3.Connection,
        lock: IO[str] | None,
    ) -> None:
        self.path = path
        self.info = info
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
            raise UserError(f"{path} already holds a run: continue it or choose another folder")
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
                raise UserError(f"{path} already holds a run: choose another folder")
            for entry in path.iterdir():
                if _OF_AN_UNBORN_RUN.fullmatch(entry.name) and entry.name != _LOCK:
                    entry.unlink()
            connection = _connect(path, write=True)
            with _explained(path), connection:
                connection.executescript(
                    f"BEGIN; {_SCHEMAS[FORMAT]} PRAGMA user_version = {FORMAT}; COMMIT"
                )
            info = RunInfo(
                format=FOLDER_FORMAT,
                created=now(),
                config=json.loads(json.dumps(dict(config), allow_nan=False)),
                machine=machine.describe_machine(),
                versions=machine.versions(),
            )
            _check_config(info.config, path / _CONFIG)
            write_json(path / _CONFIG, plain(info))
        except BaseException:
            lock.close()
            raise
        return cls(path, info, connection, lock)

    @classmethod
    def open(cls, path: Path | str, write: bool = False) -> Self:
        """Open an existing run: for reading (also while another process writes) or for writing.

        Opening for writing returns trials that a killed process left `running` to `queued`, and
        renews the tables of an older format.

        Raises:
            UserError: no run, damaged, written by a newer version, or (for writing) in use.
        """
        path = Path(path)
        info = _read_info(path)
        lock = _take_lock(path) if write else None
        try:
            connection = _connect(path, write)
            run = cls(path, info, connection, lock)
        except BaseException:
            if lock:
                lock.close()
            raise
        try:
            run._renew(run._checked_format())
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
        stored = _read_info(path).config
        given = json.loads(json.dumps(dict(config), allow_nan=False))
        different = list(_differences(stored, given, changeable))
        if different:
            raise UserError(
                f"{path} was begun with another configuration: {'; '.join(different)}. "
                "Continue it with the same options or choose another folder"
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
    def config(self) -> dict[str, Any]:
        """What was asked for: the options that repeat the run."""
        return self.info.config

    @property
    def is_writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._lock is not None

    @property
    def budget(self) -> Budget:
        """The run's hard limits."""
        return self.info.budget

    @property
    def seed(self) -> int:
        """The seed from which every random stream of the run is derived."""
        return self.info.seed

    # -- trials

    def trials(self) -> list[Trial]:
        """All trials in the order of their index."""
        return self._records(Trial, 'ORDER BY "index"')

    def trial_summaries(self) -> list[TrialSummary]:
        """All trials without their cells: reading those of ten thousand takes seconds."""
        columns = (
            '"index", id, round, state, accuracy, macs, params, peak_memory_bytes, width, epochs, '
            "error, json_extract(latency_ms, '$.p50') AS latency_ms, "
            "json_array_length(cell, '$.operations') - 1 AS nodes, "
            "json_array_length(cell, '$.edges') AS edges"
        )
        found = []
        for row in self._rows(f'SELECT {columns} FROM trials ORDER BY "index"'):
            if row["latency_ms"] is not None:
                row["latency_ms"] = {"p50": row["latency_ms"]}
            found.append(read(TrialSummary, row, self._damaged("trials", row)))
        return found

    def trials_named(self, id: str) -> list[Trial]:
        """The trials of an id: none or one, but for ids that happen to begin alike."""
        # An id is the beginning of a key (hexadecimal), and only keys have an index.
        return self._records(Trial, "WHERE key >= ? AND key < ? AND id = ?", (id, f"{id}g", id))

    def is_being_written(self) -> bool:
        """Whether some process has the run open for writing at this moment."""
        return _is_locked(self.path)

    def change_count(self) -> int:
        """A number that is another one after another process has changed the database."""
        with _explained(self.path):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def add_trials(self, trials: Iterable[Trial]) -> None:
        """Store proposed trials: all of them or, when the process dies meanwhile, none."""
        rows = [_encoded(trial.to_json()) for trial in trials]
        if not rows:
            return
        with _explained(self.path), self._connection:
            self._connection.executemany(_insert("trials", rows[0]), rows)

    def trial_started(self, index: int) -> None:
        """Mark a trial as running."""
        self._change_trial(index, state="running", started=now())

    def trial_done(self, index: int, accuracy: float, seconds: float) -> None:
        """Store a trial's result."""
        if not math.isfinite(accuracy):
            raise ValueError(f"accuracy of trial {index} is {accuracy}: store it as failed")
        self._change_trial(
            index, state="done", accuracy=accuracy, seconds=seconds, error=None, ended=now()
        )

    def trial_failed(self, index: int, error: str, seconds: float | None = None) -> None:
        """Store that a trial failed and why."""
        self._change_trial(
            index, state="failed", accuracy=None, error=error, seconds=seconds, ended=now()
        )

    def trial_tried_again(self, index: int) -> None:
        """Queue a failed trial once more."""
        self._change_trial(index, state="queued", accuracy=None, error=None, tried_again=True)

    def trial_promoted(self, index: int, epochs: int) -> None:
        """Queue a finished trial to be trained for more epochs; what it reached is kept."""
        known = self._trial(index)
        if known.accuracy is None:
            raise ValueError(f"trial {index} is {known.state}: only what is done is promoted")
        short = ShortTraining(known.epochs, known.accuracy)
        self._change_trial(index, state="queued", accuracy=None, epochs=epochs, short=short)

    def trial_demoted(self, index: int, error: str | None = None) -> None:
        """Return a promoted trial to what it had reached before.

        Args:
            error: why its longer training failed, if it did.
        """
        known = self._trial(index)
        if known.short is None:
            raise ValueError(f"trial {index} was not promoted")
        short = {"epochs": known.short.epochs, "accuracy": known.short.accuracy}
        self._change_trial(index, state="done", error=None, long_error=error, **short)

    def remove_trial(self, index: int) -> None:
        """Forget a trial that was never run."""
        with _explained(self.path), self._connection:
            self._connection.execute('DELETE FROM trials WHERE "index" = ?', (index,))

    def _trial(self, index: int) -> Trial:
        (found,) = self._records(Trial, 'WHERE "index" = ?', (index,))
        return found

    def _change_trial(self, index: int, **changes: Any) -> None:
        known = self._extra("trials", "index", index)
        row = _encoded(_merged(replace(self._trial(index), **changes), known))
        names = [name for name in row if name in changes or name == "extra"]
        assignments = ", ".join(f'"{name}" = :{name}' for name in names)
        with _explained(self.path), self._connection:
            self._connection.execute(f'UPDATE trials SET {assignments} WHERE "index" = :index', row)

    def _requeue(self) -> None:
        with _explained(self.path), self._connection:
            self._connection.execute(
                "UPDATE trials SET state = 'queued', started = NULL WHERE state = 'running'"
            )

    # -- networks

    def models(self) -> list[Model]:
        """The networks of the search that are trained in full, in the order stored."""
        return self._records(Model, "ORDER BY rowid")

    def baselines(self) -> list[Baseline]:
        """The known networks trained beside them."""
        return self._records(Baseline, "ORDER BY rowid")

    def compared(self) -> list[Compared]:
        """The trainings of a comparison."""
        return self._records(Compared, "ORDER BY rowid")

    def put(self, network: Network) -> None:
        """Store a model, a baseline or a comparison's training, in place of what has its id.

        To change some values: `run.put(replace(model, state="done"))`.
        """
        table = _TABLE_OF[type(network)]
        row = _encoded(_merged(network, self._extra(table, "id", network.id)))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in row)
        with _explained(self.path), self._connection:
            self._connection.execute(
                f"{_insert(table, row)} ON CONFLICT (id) DO UPDATE SET {changes}", row
            )

    # -- settings

    @overload
    def setting(self, name: str, kind: type[Kind]) -> Kind | None: ...
    @overload
    def setting(self, name: str, kind: type[Kind], default: Kind) -> Kind: ...
    def setting(self, name: str, kind: type[Kind], default: Kind | None = None) -> Kind | None:
        """What a step keeps for those after it.

        Args:
            kind: its type: a record, or a plain type such as `list[str]`.
            default: returned where nothing is stored under the name.
        """
        with _explained(self.path):
            found = self._connection.execute(
                "SELECT value FROM settings WHERE name = ?", (name,)
            ).fetchone()
        if found is None:
            return default
        where = f"{self.path / _DATABASE} is damaged: setting {name!r}"
        return read(kind, self._decoded(found[0], where), where)

    def set_setting(self, name: str, value: object) -> None:
        """Store a record or a plain value under a name."""
        with _explained(self.path), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                (name, json.dumps(plain(value), allow_nan=False)),
            )

    def content(self) -> RunContent:
        """All that the run holds now."""
        return RunContent(
            self.name,
            self.info,
            tuple(self.trials()),
            tuple(self.models()),
            tuple(self.baselines()),
            tuple(self.compared()),
            self.recommendation(),
            self.fastest_files(),
        )

    def fastest_files(self) -> dict[str, Measurement]:
        """What was measured of the file to use of each network, by its id.

        Only of networks with several files that were measured. Where limits refer to one
        precision, or the run is for another device, nothing can be chosen: none is given.
        """
        if self.config.get("target") is not None or self.budget.precision != "fp32":
            return {}
        networks: list[Network] = [*self.models(), *self.baselines()]
        found = {one.id: fastest_file(one.measurements) for one in networks if one.onnx}
        return {id: one for id, one in found.items() if one is not None}

    def recommendation(self) -> Recommendation | None:
        """Which trained network is the best on the hold-out, found or known, and by how much.

        None before a network was judged there. What a known network takes on another device is
        not known, so a run whose latency limit means one recommends found networks alone.
        """
        elsewhere = self.config.get("target") is not None and self.budget.latency_ms is not None
        return recommend(self.models(), () if elsewhere else self.baselines())

    # -- rows

    def _records(
        self, kind: type[AnyStored], rest: str, values: Sequence[Any] = ()
    ) -> list[AnyStored]:
        table = _TABLE_OF[kind]
        found = []
        for row in self._rows(f"SELECT * FROM {table} {rest}", values):
            where = self._damaged(table, row)
            for name in _JSON_COLUMNS:
                if row.get(name) is not None:
                    row[name] = self._decoded(row[name], where)
            found.append(kind.from_json(row, where))
        return found

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with _explained(self.path):
            cursor = self._connection.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def _extra(self, table: str, name: str, value: object) -> dict[str, Any]:
        """What stands under `extra` in a row, also what this gemkit does not know."""
        for row in self._rows(f'SELECT extra FROM {table} WHERE "{name}" = ?', (value,)):
            if row["extra"] is not None:
                where = self._damaged(table, {name: value})
                return read(dict[str, Any], self._decoded(row["extra"], where), where)
        return {}

    def _decoded(self, text: Any, where: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{where} holds no JSON") from None

    def _damaged(self, table: str, row: Mapping[str, Any]) -> str:
        """The beginning of a sentence about a row."""
        id = row.get("index", row.get("id"))
        return f"{self.path / _DATABASE} is damaged: {table} row {id!r}"

    def _checked_format(self) -> int:
        """The format of the tables.

        Raises:
            UserError: it is a newer one, or the database is damaged.
        """
        with _explained(self.path):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version:  # 0 is what any other database has
                check_format(version, FORMAT, str(self.path))
            sound = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = set(self._connection.execute(_TABLES))
        file = self.path / _DATABASE
        if sound != "ok":
            raise UserError(f"{file} is damaged: {str(sound).splitlines()[-1]}")
        wanted = set()
        if version in _SCHEMAS:
            with closing(sqlite3.connect(":memory:")) as empty:
                empty.executescript(_SCHEMAS[version])
                wanted = set(empty.execute(_TABLES))
        if tables != wanted:
            raise UserError(f"{file} is damaged: its tables are not those of a run")
        return int(version)

    def _renew(self, version: int) -> None:
        """Bring the tables of an older format to this one: in the file, or to who reads it."""
        if version == FORMAT:
            return
        # Only a comparison's names have an "@".
        if self._lock:
            script = (
                f"BEGIN; {_FORMAT_2} INSERT INTO compared {_AS_COMPARED};"
                "DELETE FROM baselines WHERE instr(id, '@');"
                f"PRAGMA user_version = {FORMAT}; COMMIT"
            )
        else:
            script = (
                "PRAGMA temp_store = MEMORY;"
                f"CREATE TEMP VIEW compared AS {_AS_COMPARED.replace('SELECT', 'SELECT rowid,')};"
                "CREATE TEMP VIEW baselines AS "
                "SELECT rowid, * FROM main.baselines WHERE NOT instr(id, '@')"
            )
        with _explained(self.path):
            self._connection.executescript(script)


def is_run(path: Path | str) -> bool:
    """Whether a folder holds a run (its configuration was written)."""
    return is_file(Path(path) / _CONFIG)


def now() -> str:
    """The time of day in UTC, for people; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read_info(path: Path) -> RunInfo:
    if not is_folder(path):
        raise UserError(f"{path} is no folder: name the folder of a run{_runs_beside(path)}")
    file = path / _CONFIG
    if not is_file(file):
        raise UserError(f"{path} holds no run: it has no {_CONFIG}")
    value = read_json(file)
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise UserError(f"{file} is no run's configuration: it names no format")
    check_format(value["format"], FOLDER_FORMAT, str(file.parent))
    info = read(RunInfo, value, f"{file} is no run's configuration")
    _check_config(info.config, file)
    if not is_file(path / _DATABASE):
        raise UserError(f"{path} is incomplete: it has no {_DATABASE}")
    return info


def _runs_beside(path: Path) -> str:
    """The runs in the folder where one was looked for, as the end of a sentence."""
    try:
        there = sorted(str(one) for one in path.parent.iterdir() if is_run(one))
    except (OSError, ValueError, UserError):
        return ""
    return f", one of {', '.join(there[:_NAMED])}" if there else ""


def _check_config(config: Mapping[str, Any], file: Path) -> None:
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
        f"another process is writing to {path}: wait for it to end or choose another folder"
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


def _merged(record: Trial | Network, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A record's values, with what is stored under `extra` that is none of its fields."""
    values = record.to_json()
    known = {one.name for one in fields(record)}
    values["extra"] |= {name: one for name, one in extra.items() if name not in known}
    return values


def _encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, allow_nan=False)
        if name in _JSON_COLUMNS and value is not None
        else value
        for name, value in values.items()
    }


def _insert(table: str, names: Iterable[str]) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join(f":{name}" for name in names)
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})"
