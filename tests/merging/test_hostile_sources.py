"""Merging from stores and archives that are damaged, or made by an enemy: refused, said, and nothing written."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from harness import archive
from harness.errors import UserError
from harness.results.store import MANIFEST, Store
from harness.run.record import split_confusions
from harness.strict import digest
from tests.conftest import Run
from tests.merging.conftest import merge, pack_tar, pack_zip
from tests.stores import add_cell, keys, publish, write_record

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
            pack_tar(path, [(other.root, "results")])
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
    pack_tar(plain, [(other.root, "results")])
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
    pack_tar(path, [(other.root, "results")])
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
        pack_zip(path, other.root, "results/")
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
    pack_zip(tmp_path / "enemy.zip", other.root, "")
    with zipfile.ZipFile(tmp_path / "enemy.zip", "a") as packed:
        info = zipfile.ZipInfo(f"{FIT}/model.safetensors")
        info.external_attr = (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link or a device"):
        merge(tmp_path / "results", tmp_path / "enemy.zip")


def test_an_encrypted_or_oddly_packed_zip_is_refused(other: Store, tmp_path: Path) -> None:
    path = tmp_path / "enemy.zip"
    pack_zip(path, other.root, "")
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
    pack_zip(path, other.root, "results/")
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
    pack_tar(tmp_path / "all.tgz", [(other.root, ".")])
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
