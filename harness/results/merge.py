"""Bring results made on several machines into one folder.

First every source is read and compared with the others and with what is there; only if nothing contradicts is anything
written. A source may come from a stranger: `harness.archive` lets plain files through, and of these
`harness.results.source` takes what has the name and the form of a store's file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.archive import File, Source, UnreadableFileError, open_source
from harness.errors import UserError
from harness.results.lease import Leases
from harness.results.source import (
    ArtefactFacts,
    ArtefactName,
    Survey,
    content_of,
    places,
    record_facts,
    survey,
    text_of,
)
from harness.results.store import MANIFEST, Store, read_record

if TYPE_CHECKING:
    from harness.inputs import ScanProgress


@dataclass
class Merge:
    """What a merge would do, or has done.

    Attributes
    ----------
    sources : list of (Source, Survey)
    conflicts : list of str
        A line for each record or artefact of which there are two with different numbers or files.
    new, replaced : list of str
        Keys of records to write where there is none, and in place of a failure.
    kept : list of str
        Keys of records that stay although a source has another one: of another date or machine, or a failure.
    artefacts : dict
        Bytes of each artefact to copy, by stage and key.
    left_out : dict
        What is wrong with each artefact that is not copied, by stage and key; with a record, by `records` and key.
    """

    sources: list[tuple[Source, Survey]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    artefacts: dict[ArtefactName, int] = field(default_factory=dict)
    left_out: dict[ArtefactName, str] = field(default_factory=dict)


def plan_merge(paths: Iterable[Path], results: Path, max_bytes: int | None, progress: ScanProgress) -> Merge:
    """Read all sources and find out what merging them means; write nothing.

    Parameters
    ----------
    paths : iterable of Path
        Results folders, or archives of them.
    results : Path
        The folder to merge into; it need not be there.
    max_bytes : int or None
        How much one archive may unpack to; None takes the size of the disk that holds `results`.
    progress : callable
        Called with (what, done, total) meanwhile.

    Returns
    -------
    Merge

    Raises
    ------
    UserError
        If a source is not one, is damaged, of another schema, or holds what no results folder holds; or if the disk is
        too small.
    """
    store = Store(results) if (results / "store.json").exists() else None
    disk = _disk(results)
    merge = Merge()
    for path in paths:
        if path.resolve() == results.resolve():
            raise UserError(f"{path} is the results folder itself: name others to merge into it")
        source = open_source(path, disk.total if max_bytes is None else max_bytes)
        merge.sources.append((source, survey(source, progress)))
    _compare_records(merge, store, str(results))
    _compare_artefacts(merge, store, str(results))
    needed = sum(merge.artefacts.values())
    if needed > disk.free:
        raise UserError(
            f"{needed:,} bytes to copy, {disk.free:,} free for {results}: make room, or name other --results"
        )
    return merge


def carry_out(merge: Merge, results: Path, progress: ScanProgress) -> None:
    """Copy what a merge without conflicts has found; add to its `left_out` what turns out to be damaged.

    Artefacts come before the records that name them, and each is there as a whole or not at all: after a kill the same
    merge goes on.

    Raises
    ------
    UserError
        If another merge is at work, or the disk is full.
    """
    store = Store(results, create=True)
    leases = Leases(store.root / "leases")

    def lives(what: str, done: int, total: int) -> None:
        leases.heartbeat()
        progress(what, done, total)

    try:
        with store.in_use(), _scratch(store, leases) as scratch:
            for source, found in merge.sources:
                merge.left_out |= _copy(source, found, store, scratch, lives)
    except OSError as error:
        problem = f"cannot write to {results}: {error.strerror}"
        raise UserError(f"{problem}; what is copied is kept, the same command goes on") from None
    merge.left_out = {name: why for name, why in merge.left_out.items() if not store.artefact(*name)}


def _disk(folder: Path) -> Any:
    """Return total and free bytes of the disk that holds a folder, or will."""
    folder = folder.absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))


def _compare_records(merge: Merge, store: Store | None, results: str) -> None:
    ours = {}
    for key in {key for _, found in merge.sources for key in found.records}:
        if store and (record := store.record(key)):
            ours[key] = record_facts(record, key, f"{results}: records/{key}.json")
    known = {key: (results, facts) for key, facts in ours.items()}
    kept = set()
    for source, found in merge.sources:
        for key, facts in found.records.items():
            where, before = known.setdefault(key, (str(source.path), facts))
            if different := facts.clash(before):
                merge.conflicts.append(f"record {key}: {different} differ in {where} and {source.path}")
            elif facts.replaces(before):
                known[key] = str(source.path), facts
            elif facts.whole != before.whole:
                kept.add(key)
    merge.new = sorted(known.keys() - ours.keys())
    merge.replaced = sorted(key for key in ours if known[key][1].replaces(ours[key]))
    merge.kept = sorted(kept)


def _compare_artefacts(merge: Merge, store: Store | None, results: str) -> None:
    known: dict[ArtefactName, tuple[str, str]] = {}
    for source, found in merge.sources:
        for name, facts in found.artefacts.items():
            if name not in known and store and (ours := store.artefact(*name)):
                known[name] = results, content_of(ours.manifest["files"])
            if facts.problem:
                merge.left_out[name] = f"{source.path}: {facts.problem}"
                continue
            if name not in known:
                known[name] = str(source.path), facts.content
                merge.artefacts[name] = facts.bytes
            where, content = known[name]
            if content != facts.content:
                merge.conflicts.append(f"artefact {'/'.join(name)}: files differ in {where} and {source.path}")
    merge.left_out = {name: why for name, why in merge.left_out.items() if name not in known}


@contextmanager
def _scratch(store: Store, leases: Leases) -> Iterator[Path]:
    """Make an empty folder to draft in, for one merge at a time."""
    folder = store.work("merge")
    if not leases.acquire(folder.name):
        raise UserError(f"another merge is at work in {store.root}: wait for it")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a merge that was killed
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        leases.release(folder.name)


def _copy(
    source: Source, found: Survey, store: Store, scratch: Path, progress: ScanProgress
) -> dict[ArtefactName, str]:
    """Copy a source's artefacts that are not there yet, then its records; return what is wrong with those left out."""
    drafts = {
        name: _Draft(scratch / "-".join(name), facts)
        for name, facts in found.artefacts.items()
        if not facts.problem and not store.artefact(*name)
    }
    left_out, records = {}, []
    for place, file in places(source, progress):
        if place["root"] != found.root:
            continue
        name = place["stage"], place["key"]
        if place["record"] in found.records:
            records.append(scratch / f"{place['record']}.json")
            records[-1].write_bytes(text_of(file))
        elif name in drafts and drafts[name].add(place["file"], file):
            draft = drafts.pop(name)
            if problem := draft.problem():
                left_out[name] = f"{source.path}: {problem}"
                shutil.rmtree(draft.folder)
            else:
                store.place(*name, draft.folder)
    for path in records:
        record = read_record(path)
        before = store.record(path.stem)
        if record_facts(record, path.stem, str(path)) != found.records[path.stem]:
            left_out["records", path.stem] = f"{source.path}: it changed meanwhile"
        elif before is None or (before["status"] != "done" and record["status"] == "done"):
            store.write_record(record)
    return left_out | dict.fromkeys(drafts, f"{source.path}: it changed meanwhile")


class _Draft:
    """An artefact on its way."""

    def __init__(self, folder: Path, facts: ArtefactFacts) -> None:
        self.folder = folder
        self.facts = facts
        self.hashes: dict[str, str] = {}
        self.unreadable = ""

    def add(self, name: str, file: File) -> bool:
        """Copy a file, durably; return whether it was the last one."""
        self.folder.mkdir(exist_ok=True)
        found = hashlib.sha256()
        with open(self.folder / name, "xb") as copy:
            try:
                for chunk in file.chunks():
                    found.update(chunk)
                    copy.write(chunk)
            except UnreadableFileError:
                self.unreadable = f"{name} cannot be read"
            copy.flush()
            os.fsync(copy.fileno())
        self.hashes[name] = found.hexdigest()
        return len(self.hashes) == self.facts.files

    def problem(self) -> str:
        """Return what is wrong with it, if anything is."""
        if self.unreadable:
            return self.unreadable
        if self.hashes.pop(MANIFEST) != self.facts.manifest:
            return "it changed meanwhile"
        listed = json.loads((self.folder / MANIFEST).read_bytes())["files"]
        for name in sorted(listed.keys() | self.hashes.keys()):
            if name not in self.hashes:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in its manifest"
            if self.hashes[name] != listed[name]:
                return f"{name} does not match its hash"
        return ""
