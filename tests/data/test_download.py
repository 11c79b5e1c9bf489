from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data.download import WrongFileError, download, need_room
from harness.errors import EnvironmentUnfitError, UserError
from tests.data.official import Server, serving

DATA = bytes(range(256)) * 20_000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "big.tar").write_bytes(DATA)
    with serving(tmp_path / "served") as found:
        yield found


def right(path: Path) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA:
        raise WrongFileError("another sha256")


def fetch(server: Server, target: Path, *, also: tuple[str, ...] = (), name: str = "big.tar") -> None:
    download([f"{server.address}/{name}", *also], target, right, pause=0.0)


def test_a_cut_connection_is_taken_up_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 2_000_000]
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == DATA
    assert [span for _, span in server.asked] == [None, "bytes=1000000-", "bytes=3000000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.tar", "served"]


def test_a_later_call_goes_on_from_what_has_come(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(EnvironmentUnfitError, match="the connection was cut\n.*goes on from what has come"):
        fetch(server, tmp_path / "big.tar")
    assert not (tmp_path / "big.tar").exists()
    server.cuts, server.asked = [], []
    fetch(server, tmp_path / "big.tar")
    assert [span for _, span in server.asked] == ["bytes=1000000-"]
    assert (tmp_path / "big.tar").read_bytes() == DATA


def test_what_came_from_an_older_version_is_not_built_upon(server: Server, tmp_path: Path) -> None:
    server.cuts, server.version = [1_000_000, 0, 0, 0, 0], '"old"'
    with pytest.raises(EnvironmentUnfitError):
        fetch(server, tmp_path / "big.tar")
    server.cuts, server.version = [], '"new"'
    (tmp_path / "big.tar.part").write_bytes(b"x" * 1_000_000)
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == DATA


@pytest.mark.parametrize("trait", [{"ranges": False}, {"version": ""}])
def test_a_server_that_cannot_resume_is_asked_for_all_of_it(server: Server, tmp_path: Path, trait: dict) -> None:  # type: ignore[type-arg]
    vars(server).update(trait)
    server.cuts = [1_000_000]
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == DATA


def test_a_part_that_is_complete_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(EnvironmentUnfitError):
        fetch(server, tmp_path / "big.tar")
    (tmp_path / "big.tar.part").write_bytes(DATA)
    server.cuts, server.asked = [], []
    fetch(server, tmp_path / "big.tar")
    assert server.asked == [("/big.tar", f"bytes={len(DATA)}-")]


def test_a_wrong_file_is_removed_and_the_next_mirror_asked(server: Server, tmp_path: Path) -> None:
    (server.folder / "wrong.tar").write_bytes(b"something else")
    fetch(server, tmp_path / "big.tar", name="wrong.tar", also=(f"{server.address}/big.tar",))
    assert (tmp_path / "big.tar").read_bytes() == DATA
    with pytest.raises(EnvironmentUnfitError, match=r"wrong\.tar: another sha256"):
        fetch(server, tmp_path / "other.tar", name="wrong.tar")
    assert not list(tmp_path.glob("other.tar*[!n]"))


def test_refusals_are_told_and_only_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.refuse = 403
    with pytest.raises(EnvironmentUnfitError, match="403 Forbidden"):
        fetch(server, tmp_path / "big.tar")
    assert len(server.asked) == 1
    server.refuse, server.asked = 503, []
    with pytest.raises(EnvironmentUnfitError, match="503 Service Unavailable"):
        fetch(server, tmp_path / "big.tar")
    assert len(server.asked) == 4
    with pytest.raises(UserError, match="begins with http"):
        download(["file:///etc/passwd"], tmp_path / "x", right)


def test_a_disk_that_is_too_small_is_said_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"voc12 needs 1,000,000,000,000,000,000 bytes on the disk of .*are free"):
        need_room(tmp_path / "not" / "there", 10**18, "voc12")


def test_a_full_disk_loses_nothing(server: Server, tmp_path: Path) -> None:
    """A limit on the size of files, which the kernel enforces like a full disk."""
    script = (
        "import resource, sys; from pathlib import Path; from harness.data.download import download\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))\n"
        "download([sys.argv[1]], Path('big.tar'), lambda path: None)"
    )
    command = [sys.executable, "-c", script, f"{server.address}/big.tar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "is full: make room; the same command goes on from there" in done.stderr
    assert 0 < (tmp_path / "big.tar.part").stat().st_size <= 2_000_000
    fetch(server, tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == DATA
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
