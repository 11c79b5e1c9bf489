"""Merging real small stores: honest ones, contradicting ones, damaged ones and those of an enemy."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from harness import archive
from harness.errors import UserError
from harness.results.gc import find_waste
from harness.results.merge import Merge, carry_out, plan_merge
from harness.results.store import MANIFEST, Store
from harness.run.record import split_confusions
from harness.strict import digest
from tests.conftest import Run
from tests.stores import add_cell, add_failure, held, keys, publish, tree, write_record

ROOT = Path(__file__).parent.parent


def quiet(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def merge(into: Path, *sources: Path, max_bytes: int | None = None) -> Merge:
    """Merge as the command does."""
    found = plan_merge(sources, into, max_bytes, quiet)
    if not found.conflicts:
        carry_out(found, into, quiet)
    return found


@pytest.fixture
def here_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", create=True)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other", create=True)


def snapshot(folder: Path) -> dict[str, Any]:
    """Return all that stands in a folder, contents and times."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


# what belongs together


PACKS: dict[str, Callable[[Path, Path], None]] = {
    "folder": lambda store, path: None,
    "all.tar": lambda store, path: _tar(path, [(store, "results")]),
    "all.tar.gz": lambda store, path: _tar(path, [(store, ".")]),
    "all.tgz": lambda store, path: _tar(path, [(store, "home/me/results")]),
    "ALL.ZIP": lambda store, path: _zip(path, store, ""),
    "all.zip": lambda store, path: _zip(path, store, "results/"),
}


def _tar(path: Path, trees: list[tuple[Path, str]]) -> None:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as packed:
        for folder, name in trees:
            packed.add(folder, name)


def _zip(path: Path, store: Path, prefix: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(store.rglob("*")):
            packed.write(file, prefix + str(file.relative_to(store)))


@pytest.mark.parametrize("pack", PACKS)
def test_a_folder_and_every_archive_of_it_arrive_byte_for_byte(other: Store, tmp_path: Path, pack: str) -> None:
    for number in (1, 2):
        add_cell(other, number)
    add_failure(other, 3)
    PACKS[pack](other.root, tmp_path / pack)
    source = other.root if pack == "folder" else tmp_path / pack
    found = merge(tmp_path / "results", source)
    assert (len(found.new), len(found.artefacts), found.left_out) == (3, 5, {})
    assert tree(tmp_path / "results") == tree(other.root)
    store = Store(tmp_path / "results")
    assert not list((store.root / "work").iterdir())
    for record in store.records():
        if record["status"] == "done":
            assert split_confusions(store, record["artefacts"]["splits"]["val"]).images == 1


def test_two_machines_come_together_and_a_second_merge_changes_nothing(
    here_store: Store, other: Store, tmp_path: Path
) -> None:
    add_cell(here_store, 1)
    add_cell(other, 2)
    found = merge(here_store.root, other.root)
    assert len(found.artefacts) == 2, "the labels are those of both"
    assert {record["title"] for record in here_store.records()} == {"cell 1", "cell 2"}
    before = snapshot(here_store.root / "records") | snapshot(here_store.root / "artefacts")
    again = merge(here_store.root, other.root)
    assert (again.new, again.replaced, again.kept, again.artefacts) == ([], [], [], {})
    assert snapshot(here_store.root / "records") | snapshot(here_store.root / "artefacts") == before


def test_only_what_belongs_to_a_store_is_taken(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    expected = tree(other.root)
    strays = [
        "README.md", "report/report.md", "cache/files-toy.json", "leases/k.json", "work/k/log.txt",
        "records/.abc.json.x1y2z3a4", "records/mine.json", "records/0123.json", f"Records/{digest(1)}.json",
        "artefacts/notes.txt", f"artefacts/unheard/{digest(1)}/a", "artefacts/fit/mine/model.safetensors",
        f"artefacts/fit/{digest(1).upper()}/a", "reference/old/store.json",
    ]  # fmt: skip
    for name in strays:
        (other.root / name).parent.mkdir(parents=True, exist_ok=True)
        (other.root / name).write_text('{"schema": 1}')
    _zip(tmp_path / "all.zip", other.root, "results/")
    for number, source in enumerate((other.root, tmp_path / "all.zip")):
        merge(tmp_path / str(number), source)
        assert tree(tmp_path / str(number), ("",)) == expected | {
            "store.json": b'{"schema": 1}\n', "leases/.lock": b"", "leases/.usage": b"",
        }  # fmt: skip


def test_the_reference_records_have_the_form_that_is_asked_for(tmp_path: Path) -> None:
    folders = [marker.parent for marker in (ROOT / "results" / "reference").rglob("store.json")]
    found = merge(tmp_path / "results", *folders)
    assert len(found.new) == sum(len(list(Store(folder).records())) for folder in folders) > 0
    for folder in folders:
        for record in Store(folder).records():
            assert Store(tmp_path / "results").record(record["key"]) == record


# what contradicts


def test_every_conflict_is_named_and_nothing_is_written(here_store: Store, other: Store, here: Run) -> None:
    same = add_cell(here_store, 1)
    add_cell(other, 1)
    numbers = add_cell(here_store, 2, miou=0.5)
    add_cell(other, 2, miou=0.5000001)
    add_cell(here_store, 3)
    add_cell(other, 3, weights=b"WEIGHTS")
    add_cell(other, 4)
    before = snapshot(here_store.root)
    found = here("merge", "other")
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert lines[0] == "error: 2 conflicts, nothing was written"
    assert f"record {numbers}: metrics differ in results and other" in lines
    assert f"artefact fit/{keys(3)['fit']}: files differ in results and other" in lines
    assert same not in found.stderr
    assert len(lines) == 4
    assert snapshot(here_store.root) == before
    answer = here("merge", "other", "--dry-run", "--json")
    assert answer.returncode == 2
    assert len(json.loads(answer.stdout)["conflicts"]) == 2


def test_two_sources_contradict_each_other_where_there_is_no_store_yet(
    here_store: Store, other: Store, tmp_path: Path
) -> None:
    add_cell(here_store, 1, miou=0.1)
    add_cell(other, 1, miou=0.2)
    found = merge(tmp_path / "new", here_store.root, other.root)
    assert found.conflicts == [
        f"record {digest(['cell', 1])}: metrics differ in {here_store.root} and {other.root}",
    ]
    assert not (tmp_path / "new").exists()


def test_what_a_stage_printed_and_how_long_it_took_is_no_conflict(here_store: Store, other: Store) -> None:
    for store, text in ((here_store, b"at 10:00"), (other, b"at 11:00")):
        publish(store, "fit", digest("fit"), {"model.safetensors": b"w", "log.txt": text}, seconds=len(text) / 3)
    add_cell(here_store, 1, ended="2026-01-01T00:00:00Z", provenance={"command": "here"})
    key = add_cell(other, 1, ended="2026-02-02T00:00:00Z", provenance={"command": "there"})
    found = merge(here_store.root, other.root)
    assert (found.conflicts, found.new, found.kept) == ([], [], [key])
    kept = here_store.record(key)
    assert kept is not None
    assert kept["provenance"] == {"command": "here"}
    assert here_store.need("fit", digest("fit")).file("log.txt").read_bytes() == b"at 10:00"


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "skipped"])
def test_a_record_of_any_status_is_merged(here_store: Store, other: Store, status: str) -> None:
    key = add_failure(other, 7, status=status)
    assert key in merge(here_store.root, other.root).new
    assert here_store.find(key)["status"] == status


def test_a_success_replaces_a_failure_and_never_the_reverse(here_store: Store, other: Store, tmp_path: Path) -> None:
    key = add_failure(here_store, 1)
    add_cell(other, 1)
    first, second = tmp_path / "first", tmp_path / "second"
    for into, sources in ((first, (here_store, other)), (second, (other, here_store))):
        merge(into, *(store.root for store in sources))
        record = Store(into).record(key)
        assert record is not None
        assert record["status"] == "done"
    found = merge(here_store.root, other.root)
    assert (found.new, found.replaced, found.kept) == ([], [key], [])


def test_of_two_failures_and_of_a_success_and_a_failure_the_first_stays(here_store: Store, other: Store) -> None:
    ours = {add_cell(here_store, 1): "done", add_failure(here_store, 2, "our reason"): "failed"}
    add_failure(other, 1)
    add_failure(other, 2, "their reason")
    before = tree(here_store.root)
    found = merge(here_store.root, other.root)
    assert (found.conflicts, found.new, found.replaced, found.kept) == ([], [], [], sorted(ours))
    assert tree(here_store.root) == before


# what is damaged


def damage(store: Store, how: str) -> str:
    """Damage the training of cell 1; return what is to be said about it."""
    folder = store.root / "artefacts" / "fit" / keys(1)["fit"]
    manifest = json.loads((folder / MANIFEST).read_text())
    if how == "flipped":
        (folder / "model.safetensors").write_bytes(b"weightsweightT")
        return "model.safetensors does not match its hash"
    if how == "missing":
        (folder / "curves.json").unlink()
        return "curves.json is missing"
    if how == "unlisted":
        (folder / "extra.pkl").write_bytes(b"x")
        return "extra.pkl is not in its manifest"
    if how == "half":
        (folder / MANIFEST).unlink()
        return "it has no manifest"
    changes: dict[str, dict[str, Any]] = {
        "traversal": {"files": {"../../../../evil": "0" * 64}}, "absolute": {"files": {"/evil": "0" * 64}},
        "itself": {"files": {MANIFEST: "0" * 64}}, "no hash": {"files": {"a": "0"}}, "schema": {"schema": 2},
        "stranger": {"key": digest("other")}, "no time": {"seconds": None}, "parents": {"parents": {"fit": "../x"}},
    }  # fmt: skip
    (folder / MANIFEST).write_text("[" * 100_000 if how == "deep" else json.dumps(manifest | changes[how]))
    return "its manifest is not one"


@pytest.mark.parametrize(
    "how",
    ["flipped", "missing", "unlisted", "half", "traversal", "absolute", "itself", "no hash", "schema", "stranger",
     "no time", "parents", "deep"],
)  # fmt: skip
def test_a_damaged_artefact_is_left_out_and_said_and_the_rest_arrives(
    other: Store, tmp_path: Path, here: Run, how: str
) -> None:
    key = add_cell(other, 1)
    said = damage(other, how)
    found = here("merge", "other")
    assert found.returncode == 1
    assert f"left out: fit/{keys(1)['fit']}: other: {said}" in found.stderr
    store = Store(tmp_path / "results")
    assert store.artefact("fit", keys(1)["fit"]) is None
    assert store.artefact("labels", keys(1)["labels"])
    assert store.record(key)
    assert not list((store.root / "work").iterdir())
    repaired = Store(tmp_path / "repaired", create=True)
    add_cell(repaired, 1)
    assert merge(store.root, other.root, repaired.root).left_out == {}
    assert store.need("fit", keys(1)["fit"]).file("model.safetensors").read_bytes() == b"weightsweights"


def test_a_byte_flipped_in_an_archive_is_found(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1, weights=b"look for me")
    for path in (tmp_path / "all.zip", tmp_path / "all.tar"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as packed:
                for file in sorted(other.root.rglob("*")):
                    packed.write(file, str(file.relative_to(other.root)))
        else:
            _tar(path, [(other.root, "results")])
        path.write_bytes(path.read_bytes().replace(b"look for me", b"look for mE", 1))
        found = merge(tmp_path / f"from{path.suffix}", path)
        assert list(found.left_out) == [("fit", keys(1)["fit"])]


@pytest.mark.parametrize(
    "how", ["cut", "cut at a header", "flipped header", "appended", "not gzip", "not zip", "empty"]
)
def test_a_damaged_archive_is_refused_as_a_whole(other: Store, tmp_path: Path, how: str) -> None:
    """`tarfile` takes a damaged header for the end: half of the results would be missing without a word."""
    add_cell(other, 1)
    path = tmp_path / ("all.zip" if how == "not zip" else "all.tgz" if how == "not gzip" else "all.tar")
    plain = tmp_path / "plain.tar"
    _tar(plain, [(other.root, "results")])
    with tarfile.open(plain) as packed:
        middle = packed.getmembers()[9].offset
    data = bytearray(plain.read_bytes())
    if how == "cut":
        data = data[: middle + 700]
    elif how == "cut at a header":
        data = data[:middle]
    elif how == "flipped header":
        data[middle + 150] ^= 1
    elif how == "appended":
        data += b"more"
    elif how == "empty":
        data = bytearray()
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        merge(tmp_path / "results", path)
    assert not (tmp_path / "results").exists()


def test_a_cut_gzip_is_refused(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    path = tmp_path / "all.tgz"
    _tar(path, [(other.root, "results")])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="cannot be read"):
        merge(tmp_path / "results", path)


def done(**changes: Any) -> dict[str, Any]:
    return {"status": "done", "classes": [], "data": {}, "metrics": {}, "artefacts": {}, "stages": [], **changes}


STAGE = {"stage": "fit", "seconds": 1, "memory_mb": {}, "device": "", "threads": 1, "bytes": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "great"}, done(status="failed"), done(metrics=[]), done(metrics={"val": 1}),
        done(artefacts={"fit": "../../x"}), done(artefacts={"splits": {"val": {"evaluate": ["../../x"]}}}),
        done(stages=[STAGE | {"key": "/etc"}]), done(spec=None), done(title=["x"]), done(key=digest("another")),
        done(metrics={"val": {"miou": float("nan")}}), done(classes=["\ud800"]), done(schema=2),
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(other: Store, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = other.root / "records" / f"{write_record(other, 1, done())}.json"
    assert merge(tmp_path / "before", other.root).new == [path.stem]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="is not a record|has schema 2"):
        merge(tmp_path / "results", other.root)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[1]", '{"schema": 1}', "9" * 5000])
def test_a_record_that_is_no_json_is_refused(other: Store, tmp_path: Path, text: str) -> None:
    (other.root / "records" / f"{digest(1)}.json").write_text(text)
    with pytest.raises(UserError, match="is not a record"):
        merge(tmp_path / "results", other.root)


def test_a_pickle_in_place_of_numbers_is_never_run(other: Store, tmp_path: Path) -> None:
    import pickle

    import numpy as np

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    key = add_cell(other, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        np.save("bomb.npy", np.array([Bomb()], dtype=object))
        (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.npy", "bomb.pkl"):
        folder = other.root / "artefacts" / "evaluate" / keys(1)["evaluate"]
        shutil.rmtree(folder)
        publish(other, "evaluate", folder.name, {"confusion.npy": (tmp_path / name).read_bytes()})
        into = Store(tmp_path / f"from {name}", create=True)
        merge(into.root, other.root)
        record = into.record(key)
        assert record is not None
        with pytest.raises(ValueError, match="allow_pickle"):
            split_confusions(into, record["artefacts"]["splits"]["val"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("text", "said"), [('{"schema": 2}', "has schema 2, this version reads 1"), ("x", "is not a")])
def test_a_store_of_another_schema_is_refused(other: Store, tmp_path: Path, text: str, said: str) -> None:
    (other.root / "store.json").write_text(text)
    with pytest.raises(UserError, match=said):
        merge(tmp_path / "results", other.root)


# what an enemy sends


def enemy_tar(path: Path, other: Store, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as packed:
        packed.add(other.root, "results")
        for member, content in members:
            member.size = member.size or len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


FIT = f"results/artefacts/fit/{digest('enemy')}"
BAD_NAMES = {
    "traversal": "../evil", "deep traversal": "results/artefacts/../../evil", "absolute": "/evil",
    "traversal in an artefact": f"{FIT}/../../../../evil", "dot": "results/./records/x", "double slash": "results//x",
    "backslash": "results\\..\\evil", "control": "results/\x1b[31m", "newline": "results/a\nb", "long": "a" * 300,
    "duplicate": "results/store.json", "case": "results/STORE.json", "bidi": "results/\u202etxt",
}  # fmt: skip


@pytest.mark.parametrize("trick", BAD_NAMES)
@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_names_that_lead_elsewhere_are_refused(
    other: Store, tmp_path: Path, here: Run, trick: str, suffix: str
) -> None:
    add_cell(other, 1)
    path = tmp_path / f"enemy.{suffix}"
    if suffix == "zip":
        _zip(path, other.root, "results/")
        warning = pytest.warns(UserWarning, match="Duplicate") if trick == "duplicate" else nullcontext()
        with zipfile.ZipFile(path, "a") as packed, warning:
            packed.writestr(BAD_NAMES[trick], "evil")
    else:
        enemy_tar(path, other, (member(BAD_NAMES[trick]), b"evil"))
    before = sorted(tmp_path.rglob("*"))
    found = here("merge", path.name)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {path.name} is refused: ")
    assert found.stderr.isascii()
    assert len(found.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "../../.."), (tarfile.LNKTYPE, "results/store.json"),
     (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, ""), (tarfile.CONTTYPE, ""),
     (tarfile.GNUTYPE_SPARSE, "")],
)  # fmt: skip
def test_links_devices_and_oddities_in_a_tar_are_refused(other: Store, tmp_path: Path, kind: bytes, link: str) -> None:
    add_cell(other, 1)
    path = enemy_tar(tmp_path / "enemy.tar", other, (member(f"{FIT}/model.safetensors", kind, link), b""))
    with pytest.raises(UserError, match="is a link or a device"):
        merge(tmp_path / "results", path)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(other: Store, tmp_path: Path, mode: int) -> None:
    _zip(tmp_path / "enemy.zip", other.root, "")
    with zipfile.ZipFile(tmp_path / "enemy.zip", "a") as packed:
        info = zipfile.ZipInfo(f"{FIT}/model.safetensors")
        info.external_attr = (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link or a device"):
        merge(tmp_path / "results", tmp_path / "enemy.zip")


def test_an_encrypted_or_oddly_packed_zip_is_refused(other: Store, tmp_path: Path) -> None:
    path = tmp_path / "enemy.zip"
    _zip(path, other.root, "")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("notes", "x", zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="encrypted, or packed in an unusual way"):
        merge(tmp_path / "results", path)


@pytest.mark.parametrize("name", ["artefacts", "artefacts/fit", f"artefacts/fit/{keys(1)['fit']}/curves.json",
                                  "records", "store.json", f"records/{digest('x')}.json"])  # fmt: skip
def test_links_in_a_folder_are_refused(other: Store, tmp_path: Path, name: str) -> None:
    add_cell(other, 1)
    path = other.root / name
    if path.exists():
        path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link or a device"):
        merge(tmp_path / "results", other.root)
    assert not (tmp_path / "results").exists()


def test_a_pipe_in_a_folder_is_refused_and_nobody_waits_for_it(other: Store, tmp_path: Path) -> None:
    os.mkfifo(other.root / "records" / f"{digest(1)}.json")
    with pytest.raises(UserError, match="is a link or a device"):
        merge(tmp_path / "results", other.root)


BOMB = 64 << 20


@pytest.mark.parametrize("where", ["notes", f"{FIT}/model.safetensors", "behind the end"])
def test_a_tar_bomb_is_refused_while_it_is_read(other: Store, tmp_path: Path, where: str) -> None:
    path = tmp_path / "bomb.tar"
    enemy_tar(path, other, *([] if "end" in where else [(member(where), bytes(BOMB))]))
    with gzip.open(tmp_path / "bomb.tgz", "wb", compresslevel=1) as packed:
        packed.write(path.read_bytes() + (bytes(BOMB) if "end" in where else b""))
    with pytest.raises(UserError, match=r"unpacks to more than 10,000,000 bytes; --max-bytes allows more"):
        merge(tmp_path / "results", tmp_path / "bomb.tgz", max_bytes=10_000_000)
    assert not (tmp_path / "results").exists()


def test_a_tar_is_refused_before_it_is_unpacked_to_find_its_next_header(other: Store, tmp_path: Path) -> None:
    far = member("far")
    far.size = 1 << 40
    path = with_header(enemy_tar(tmp_path / "far.tar", other), far.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(UserError, match="unpacks to more than"):
        merge(tmp_path / "results", path, max_bytes=1 << 30)


@pytest.mark.parametrize("lie", [False, True])
def test_a_zip_bomb_is_refused_or_cut_to_what_it_says(other: Store, tmp_path: Path, lie: bool) -> None:
    path = tmp_path / "bomb.zip"
    _zip(path, other.root, "results/")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"results/records/{digest(1)}.json", bytes(BOMB))
    if lie:
        path.write_bytes(path.read_bytes().replace(BOMB.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(UserError, match="cannot be read: Bad CRC-32" if lie else "unpacks to more than 10,000,000"):
        merge(tmp_path / "results", path, max_bytes=10_000_000)


def test_a_text_that_is_no_record_by_its_length_is_not_read(other: Store, tmp_path: Path) -> None:
    (other.root / "records" / f"{digest(1)}.json").write_text("[" + " " * (17 << 20) + "]")
    with pytest.raises(UserError, match="too long for a record"):
        merge(tmp_path / "results", other.root)


def test_too_many_files_are_refused(other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_cell(other, 1)
    _tar(tmp_path / "all.tgz", [(other.root, ".")])
    monkeypatch.setattr(archive, "MEMBERS", 10)
    with pytest.raises(UserError, match="more than 10 files"):
        merge(tmp_path / "results", tmp_path / "all.tgz")


def test_a_header_without_end_or_of_negative_size_is_refused(other: Store, tmp_path: Path) -> None:
    """The first would fill the memory, the second would be read for ever."""
    long = member("x")
    long.pax_headers = {"comment": "x" * (1 << 20)}
    with pytest.raises(UserError, match="a header is too long"):
        merge(tmp_path / "results", enemy_tar(tmp_path / "long.tar", other, (long, b"")))
    plain = member("x").tobuf(tarfile.GNU_FORMAT)
    header = bytearray(plain[:124] + b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big") + plain[136:])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(UserError, match="negative size"):
        merge(tmp_path / "results", with_header(enemy_tar(tmp_path / "back.tar", other), header))


def with_header(path: Path, header: bytes) -> Path:
    """Put one more header at the end of a .tar."""
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data + bytes(-len(data) % 512) + header + bytes(1024))
    return path


# kills, and others at work


def test_kill_in_the_middle_then_the_same_command(other: Store, tmp_path: Path) -> None:
    for number in range(60):
        add_cell(other, number, weights=bytes(2000))
    _tar(tmp_path / "all.tar", [(other.root, "results")])
    command = [str(Path(sys.executable).parent / "harness"), "merge", "all.tar"]
    store = tmp_path / "results"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        end = time.monotonic() + 60
        while not list(store.glob("artefacts/*/*")):
            assert time.monotonic() < end
            assert killed.poll() is None
        killed.send_signal(signal.SIGKILL)
    there = tree(store)
    assert 0 < len(there) < len(tree(other.root))
    for path in store.glob("artefacts/*/*"):
        artefact = Store(store).need(path.parent.name, path.name)
        for name in artefact.manifest["files"]:
            artefact.file(name)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert tree(store) == tree(other.root)
    assert not list((store / "work").iterdir())


def test_a_disk_that_is_full_stops_it_cleanly_and_the_same_command_goes_on(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    publish(other, "score", digest("large"), {"scores-0000.safetensors": bytes(2 << 20)})
    command = f"{Path(sys.executable).parent / 'harness'} merge other"
    full = subprocess.run(["bash", "-c", f"ulimit -f 1000; {command}"], cwd=tmp_path, capture_output=True, text=True)
    assert full.returncode == 2
    assert "error: cannot write to results: File too large; what is copied is kept" in full.stderr
    assert not list((tmp_path / "results" / "work").iterdir())
    assert merge(tmp_path / "results", other.root).left_out == {}
    assert tree(tmp_path / "results") == tree(other.root)


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_copied(other: Store, tmp_path: Path) -> None:
    add_cell(other, 1)
    file = other.root / "artefacts" / "fit" / keys(1)["fit"] / "model.safetensors"
    os.truncate(file, shutil.disk_usage(tmp_path).free + (10 << 30))
    with pytest.raises(UserError, match=r"bytes to copy, [0-9,]+ free for .*: make room"):
        merge(tmp_path / "results", other.root)


def test_one_merge_at_a_time(here_store: Store, other: Store) -> None:
    add_cell(other, 1)
    with held(here_store, "lease", "merge"), pytest.raises(UserError, match="another merge is at work"):
        merge(here_store.root, other.root)
    merge(here_store.root, other.root)
    assert find_waste(here_store) == []


def test_a_source_that_changes_meanwhile_gives_nothing_unchecked(other: Store, tmp_path: Path) -> None:
    key, late = add_cell(other, 1), add_failure(other, 2)
    found = plan_merge([other.root], tmp_path / "results", None, quiet)
    shutil.rmtree(other.root / "artefacts" / "fit" / keys(1)["fit"])
    publish(other, "fit", keys(1)["fit"], {"model.safetensors": b"other", "curves.json": b"[]"})
    add_cell(other, 2)
    carry_out(found, tmp_path / "results", quiet)
    assert sorted(found.left_out) == [("fit", keys(1)["fit"]), ("records", late)]
    store = Store(tmp_path / "results")
    assert store.artefact("fit", keys(2)["fit"]) is None
    assert [record["key"] for record in store.records()] == [key]
    assert store.record(late) is None


def test_half_an_artefact_that_somebody_left_makes_way(here_store: Store, other: Store) -> None:
    key = keys(1)["fit"]
    half = here_store.root / "artefacts" / "fit" / key
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    add_cell(other, 1)
    merge(here_store.root, other.root)
    assert here_store.need("fit", key).file("model.safetensors").read_bytes() == b"weightsweights"


# the command


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("results", "results is the results folder itself"), ("nowhere", "no results folder or archive nowhere"),
        ("notes.txt", "expected a results folder, or an archive of one: .tar, .tar.gz, .tgz, .zip"),
        ("empty", "no results in empty: there is no store.json"), ("two.tar", "holds more than one results folder: a/"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_said(
    here_store: Store, other: Store, tmp_path: Path, here: Run, source: str, said: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    _tar(tmp_path / "two.tar", [(here_store.root, "a"), (other.root, "b")])
    found = here("merge", source)
    assert found.returncode == 2
    assert said in found.stderr


def test_a_dry_run_says_what_would_come_and_writes_nothing(other: Store, tmp_path: Path, here: Run) -> None:
    key = add_cell(other, 1)
    found = here("merge", "other", "--dry-run", "--json")
    assert found.returncode == 0
    answer = json.loads(found.stdout)
    assert answer["records"] == {"new": [key], "replaced": [], "kept": []}
    assert answer["artefacts"] == sorted(f"{stage}/{key}" for stage, key in keys(1).items())
    assert "would be merged into results: 1 new records, 0 in place of a failure, 3 artefacts" in found.stderr
    assert not (tmp_path / "results").exists()
    done = here("merge", "other", "--json")
    assert json.loads(done.stdout) == answer | {"dry_run": False}
    size = sum(len(content) for name, content in tree(tmp_path / "results", ("artefacts",)).items())
    assert answer["bytes"] == size


def test_runs_of_two_machines_are_one_run_after_merging(here: Run, tmp_path: Path) -> None:
    """Nothing is left to run, and the tables say what one machine would have said."""
    first, second = "sanity-background", "sanity-random"
    for name, methods in (("a", first), ("b", second), ("one", f"{first},{second}")):
        found = here("run", "--methods", methods, "--limit", "4", "--results", name)
        assert found.returncode == 0, found.stderr
    _tar(tmp_path / "b.tar.gz", [(tmp_path / "b", "results")])
    merged = here("merge", "a", "b.tar.gz", "--results", "all")
    assert merged.returncode == 0, merged.stderr
    again = here("run", "--methods", f"{first},{second}", "--limit", "4", "--results", "all")
    assert "every stage reused, nothing to run" in again.stderr
    assert {path.parent.name + path.name for path in (tmp_path / "all").glob("artefacts/*/*")} == {
        path.parent.name + path.name for path in (tmp_path / "one").glob("artefacts/*/*")
    }
    tables = [here("report", "--results", name, "--images", "0", "--no-figures").stdout for name in ("all", "one")]
    assert tables[0] == tables[1]
    assert "sanity-random" in tables[0]
