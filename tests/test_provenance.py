from __future__ import annotations

import pytest

from harness import provenance


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["run", "--root", "/data/me/voc/"], "harness run --root …/voc"),
        (["run", "--weights=/data/me/w.pt", "--results", "results"], "harness run --weights=…/w.pt --results results"),
        (["run", "--set", "external.folder=/home/me/masks"], "harness run --set external.folder=…/masks"),
        (["run", "--weights", "a=/me/w.pt,timm:b=/me/v.pt"], "harness run --weights a=…/w.pt,timm:b=…/v.pt"),
        (["report", "--results", "/home/me,you/secret/r"], "harness report --results …/r"),
        (["run", "--plugins", "/home/me/a.py,/home/me/b.py"], "harness run --plugins …/a.py,…/b.py"),
        (["run", "--set", "cam.lr=1e-4", "--backbones", "timm:a"], "harness run --set cam.lr=1e-4 --backbones timm:a"),
    ],
)  # fmt: skip
def test_a_command_shows_names_and_no_folders(words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/harness", *words])
    assert provenance.command_line() == shown
