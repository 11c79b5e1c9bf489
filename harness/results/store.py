"""Records, artefacts and leases in one folder: readable by people, safe under crashes and several writers.

records/<cell key>.json             one per cell, written once, when it ends; failures too
artefacts/<stage>/<key>/            what a stage made, with manifest.json; there as a whole or not at all
work/<key>/                         a running or interrupted stage: checkpoints, progress, log
leases/<key>.json                   who is computing a stage now
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from harness.errors import UserError, closest
from harness.files import hash_file, permissions, sync_folder, write_atomic
from harness.results.lease import locked
from harness.results.record import SCHEMA, Record, missing_field
from harness.run.watchdog import OUT_OF_MEMORY
from harness.source_hash import source_hash

_REMOVE = "remove it, and the command that made it writes it again from what is kept"
_LOG = logging.getLogger(__name__)  # without a handler of its own: warnings are lines on standard error
MANIFEST = "manifest.json"
LOG = "log.txt"  # what a stage printed
PUBLISHING_THREADS = 4
ENDINGS = {"Timeout (": "timeout", OUT_OF_MEMORY: "oom"}  # what `faulthandler` and `harness.run.watchdog` leave in it


class UnusableArtefactError(UserError):
    """An artefact is gone, or a file of it is not what its manifest says."""

    def __init__(self, stage: str, key: str, problem: str) -> None:
        super().__init__(f"{stage} {key}: {problem}")
        self.stage, self.key = stage, key


class DamagedRecordError(UserError):
    """A record that cannot be read."""


@dataclass(frozen=True)
class Artefact:
    """What a stage made.

    Attributes
    ----------
    stage, key : str
    path : Path
    """

    stage: str
    key: str
    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What made it, from what, when and how long; and the hash of each file."""
        return json.loads((self.path / MANIFEST).read_text("utf-8"))

    def file(self, name: str) -> Path:
        """Return a file after checking its hash.

        Raises
        ------
        UnusableArtefactError
        """
        path = self.path / name
        expected = self.manifest["files"].get(name)
        if expected is None or not path.is_file() or hash_file(path) != expected:
            raise UnusableArtefactError(self.stage, self.key, f"{name} does not match its hash")
        return path

    def json(self, name: str) -> Any:
        """Return the content of a JSON file, checked."""
        return json.loads(self.file(name).read_text("utf-8"))


class Store:
    """A results folder.

    Parameters
    ----------
    root : Path
    create : bool
        Whether to make it where there is none.

    Raises
    ------
    UserError
        If it cannot be written, is not there, or was written by a newer version.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        self.root = root.absolute()
        marker = self.root / "store.json"
        if create:
            try:
                for name in ("records", "artefacts", "work", "leases", "cache"):
                    (self.root / name).mkdir(parents=True, exist_ok=True)
                if not marker.exists():
                    write_atomic(marker, json.dumps({"schema": SCHEMA}) + "\n")
            except OSError as error:
                raise UserError(f"cannot write results to {root}: {error.strerror}; choose another --results") from None
        if not marker.exists():
            inside = sorted(str(found.parent) for found in root.glob("*/store.json"))
            remedy = f"these have some: {', '.join(inside)}" if inside else "`harness run` makes some"
            raise UserError(f"no results in {root}: {remedy}; --results names another folder")
        try:
            schema = json.loads(marker.read_text("utf-8"))["schema"]
        except (ValueError, KeyError, TypeError, OSError):
            remedy = f'write {{"schema": {SCHEMA}}} into it, or name another --results'
            raise UserError(f"{marker} is damaged: {remedy}") from None
        if schema != SCHEMA:
            raise UserError(f"{root} has schema {schema}, this version reads {SCHEMA}: use the version that wrote it")
        if create and not os.access(self.root / "records", os.W_OK):
            raise UserError(f"cannot write results to {root}: permission denied; choose another --results")

    @property
    def usage(self) -> Path:
        """The lock that stands between those who count on artefacts and `harness gc`, which removes them."""
        return self.root / "leases" / ".usage"

    def in_use(self) -> AbstractContextManager[None]:
        """Count on what is there: until the end, `harness gc` removes nothing."""
        return locked(self.usage, shared=True)

    # artefacts

    def artefact(self, stage: str, key: str) -> Artefact | None:
        """Return an artefact, or None if it is not there."""
        path = self.root / "artefacts" / stage / key
        return Artefact(stage, key, path) if (path / MANIFEST).exists() else None

    def need(self, stage: str, key: str) -> Artefact:
        """Return an artefact that must be there.

        Raises
        ------
        UnusableArtefactError
        """
        artefact = self.artefact(stage, key)
        if artefact is None:
            raise UnusableArtefactError(
                stage, key, f"gone from {self.root}: its cell, run again with --keep {stage}, makes it"
            )
        return artefact

    def work(self, key: str) -> Path:
        """Return the scratch folder of a stage; what stands in it outlives a crash."""
        return self.root / "work" / key

    def write_progress(self, key: str, progress: dict[str, Any]) -> None:
        """Write how far something is."""
        folder = self.work(key)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / ".progress"
        draft.write_text(json.dumps(progress))
        os.replace(draft, folder / "progress.json")

    def progress(self, key: str) -> dict[str, Any] | None:
        """Return how far something is, or None where it has not said so."""
        try:
            return json.loads((self.work(key) / "progress.json").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def ended_itself(self, key: str) -> tuple[str, str]:
        """Return how a stage ended itself, `timeout` or `oom`, and where it was; twice nothing if it did not."""
        try:
            lines = (self.work(key) / LOG).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return "", ""
        for number, line in reversed(list(enumerate(lines))):
            for beginning, status in ENDINGS.items():
                if line.startswith(beginning):
                    return status, "\n".join(lines[number:][:40])
        return "", ""

    def forget_progress(self, key: str) -> None:
        """Take back what an earlier attempt has said."""
        (self.work(key) / "progress.json").unlink(missing_ok=True)

    def forget_work(self, key: str) -> None:
        """Remove a scratch folder."""
        shutil.rmtree(self.work(key), ignore_errors=True)

    def adopt(self, plugins: Iterable[str]) -> tuple[str, ...]:
        """Copy plugin files and folders to where every worker sees them, as they are now; return what to load.

        Their hash is in the path: a file that is edited while a run goes on is another plugin. Modules stay as named.
        """
        return tuple(self._adopt(Path(plugin)) if Path(plugin).exists() else plugin for plugin in plugins)

    def _adopt(self, path: Path) -> str:
        source = path / "__init__.py" if path.is_dir() else path
        place = self.root / "plugins" / source_hash(source) / path.absolute().parent.name / path.name
        if not place.exists():
            draft = self.root / "work" / f"plugin-{uuid.uuid4().hex}"
            copy = draft / path.name
            draft.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copyfile(path, copy)
            place.parent.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another writer was first
                os.rename(draft, place.parent)
            shutil.rmtree(draft, ignore_errors=True)
        return str(place)

    def publish(self, stage: str, key: str, draft: Path, about: dict[str, Any]) -> None:
        """Turn a finished folder into an artefact, durably; if another writer was first, drop ours."""
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        for path in files:
            path.chmod(permissions(0o666))
        with ThreadPoolExecutor(PUBLISHING_THREADS) as pool:  # who hash and sync without Python's lock
            hashes = dict(
                zip((str(path.relative_to(draft)) for path in files), pool.map(hash_file, files), strict=True)
            )
            list(pool.map(_sync, files))
        size = sum(path.stat().st_size for path in files)
        manifest = {"schema": SCHEMA, "stage": stage, "key": key, **about, "bytes": size, "files": hashes}
        write_atomic(draft / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        self.place(stage, key, draft)

    def place(self, stage: str, key: str, draft: Path) -> None:
        """Move a draft with its manifest to where it belongs; if another writer was first, drop it."""
        place = self.root / "artefacts" / stage / key
        sync_folder(draft)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(draft, place)
        except OSError:
            if (place / MANIFEST).exists():
                shutil.rmtree(draft)
            else:
                self.discard(stage, key)  # half an artefact, of somebody who copied or removed by hand
                os.rename(draft, place)
        sync_folder(place.parent)

    def discard(self, stage: str, key: str) -> None:
        """Take a bad artefact out of the way, so that it is computed again."""
        path = self.root / "artefacts" / stage / key
        trash = self.root / "work" / f"{key}.corrupt"
        shutil.rmtree(trash, ignore_errors=True)
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    # records

    def write_record(self, record: Record) -> None:
        """Write a cell's record; a done one is never replaced by a failed one."""
        before = self.record(record["key"])
        if before and before["status"] == "done" and record["status"] != "done":
            return
        text = json.dumps({"schema": SCHEMA, **record}, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.root / "records" / f"{record['key']}.json", text + "\n")

    def record(self, key: str) -> Record | None:
        """Return a cell's record, or None."""
        try:
            return read_record(self.root / "records" / f"{key}.json")
        except FileNotFoundError:
            return None

    def records(self, *, strict: bool = False) -> Iterator[Record]:
        """Yield every record, by key; one that is damaged is named and left out, or with `strict` raises.

        Raises
        ------
        DamagedRecordError
        """
        for path in sorted((self.root / "records").glob("*.json")):
            try:
                yield read_record(path)
            except DamagedRecordError as error:
                if strict:  # who removes what no record needs must know them all
                    raise
                _LOG.warning("left out: %s", error)

    def find(self, prefix: str) -> Record:
        """Return the one record whose key begins with `prefix`.

        Raises
        ------
        UserError
            If there is none, or more than one.
        """
        keys = [path.stem for path in (self.root / "records").glob("*.json")]
        matches = [key for key in keys if key.startswith(prefix)]
        if len(matches) != 1:
            problem = f"{len(matches)} runs begin with" if matches else f"no run in {self.root} begins with"
            hint = "give more digits" if matches else closest(prefix, [key[: max(8, len(prefix))] for key in keys])
            raise UserError(f"{problem} '{prefix}': {hint}")
        return read_record(self.root / "records" / f"{matches[0]}.json")


def read_record(path: Path) -> Record:
    """Read a record.

    Raises
    ------
    DamagedRecordError
        If it is damaged.
    UserError
        If it is of another schema.
    """
    try:
        record = parse_record(path.read_bytes(), str(path))
    except IsADirectoryError:
        raise DamagedRecordError(f"{path} is a folder, not a record: remove it") from None
    if absent := missing_field(record):
        raise DamagedRecordError(f"{path} is damaged, it has no {absent}: {_REMOVE}")
    return cast("Record", record)


def parse_record(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the record that a text holds; `where` it stands is for the error, see `read_record`."""
    try:
        record = json.loads(text)
        schema = record["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedRecordError(f"{where} is not a record: {_REMOVE}") from None
    if schema != SCHEMA:
        raise UserError(f"{where} has schema {schema}, this version reads {SCHEMA}")
    return record


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
