"""Every command of docs/datasets.md, on small archives of the official layout."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from tests.conftest import Run
from tests.data import official, test_prepare_coco
from tests.data.test_prepare_coco import COUNTS as COCO_COUNTS
from tests.data.test_prepare_voc import AUG
from tests.data.test_prepare_voc import COUNTS as VOC_COUNTS

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
BLOCK = re.compile(r"^(<!-- needs: [^>]+ -->\n)?```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The commands that need no official archive."""
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    return [shlex.split(line, comments=True) for needs, text in blocks if not needs for line in text.splitlines()]


def test_the_page_marks_what_cannot_be_tried() -> None:
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert sum(bool(needs) for needs, _ in blocks) == 3
    assert len(commands()) == 11


def test_every_other_command_does_what_the_page_says(here: Run, tmp_path: Path) -> None:
    folder = tmp_path / "archives"
    test_prepare_coco.write_archives(folder)
    coco = official.write_sources(tmp_path / "coco.yaml", "coco14", sorted(folder.iterdir()), COCO_COUNTS)
    voc = [
        official.write_tar(folder / "VOCtrainval_11-May-2012.tar", official.voc_files()),
        official.write_tar(folder / "benchmark.tgz", official.sbd_files()),
    ]
    both = yaml.safe_load(coco.read_text()) | yaml.safe_load(
        official.write_sources(tmp_path / "voc.yaml", "voc12", voc, VOC_COUNTS).read_text()
    )
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    masks = {f"{name}.png": official.png(official.sbd_mask(1)) for name in (*AUG, *official.VOC_VAL)}
    official.write_zip(tmp_path / "SegmentationClassAug.zip", masks)
    for program, *arguments in commands():
        assert program == "harness"
        done = here(*arguments, WSSS_HARNESS_SOURCES="both.yaml")
        assert done.returncode == 0, (arguments, done.stderr)
