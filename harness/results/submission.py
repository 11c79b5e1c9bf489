"""What VOC's evaluation server takes: predicted masks of the test split, packed as it wants them."""

from __future__ import annotations

import tarfile
from pathlib import Path

from harness.data.base import open_mask, save_mask
from harness.data.voc import VOC12
from harness.errors import UserError
from harness.results.record import Record
from harness.results.store import Store
from harness.stages import SHARD

COMPETITION = "comp6"  # trained on data beside VOC's own: the start weights have seen ImageNet
SPLIT = "test"
FOLDER = Path("results", "VOC2012", "Segmentation", f"{COMPETITION}_{SPLIT}_cls")


def submission(record: Record, store: Store, out: Path) -> Path:
    """Write a cell's masks of VOC 2012 test, those of its verifier if it has one, and pack them.

    Parameters
    ----------
    record : dict
    store : Store
        Holds the masks.
    out : Path
        A folder; `results/VOC2012/Segmentation/comp6_test_cls/*.png` is made in it, and an archive of that.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    UserError
        If the cell is not of VOC 2012 test as a whole, or its masks were made with ground truth of it.
    """
    stage = _submittable(record)
    place = record["artefacts"]["splits"][SPLIT]
    ids = store.need("labels", place["labels"]).json("labels.json")["ids"]
    shards = [store.need(stage, key) for key in place[stage]]
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: --out names another folder")
    archive = out / f"{COMPETITION}_{SPLIT}_cls.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.USTAR_FORMAT) as packed:
        for number, image_id in enumerate(ids):
            mask = open_mask(shards[number // SHARD].file(f"{image_id}.png"))
            if mask.max() >= len(VOC12.classes):
                raise UserError(f"the mask of {image_id} holds index {mask.max()}: the server knows 0..20 only")
            save_mask(folder / f"{image_id}.png", mask)
            packed.add(folder / f"{image_id}.png", FOLDER / f"{image_id}.png", filter=_nameless)
    return archive


def _nameless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who has packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _submittable(record: Record) -> str:
    """Return the stage whose masks are handed in."""
    title, spec = f"{record['title']} ({record['key'][:8]})", record["spec"]
    if record["status"] != "done":
        raise UserError(f"{title} is {record['status']}: nothing to hand in")
    if spec["dataset"] != VOC12.name:
        raise UserError(f"{title} is of {spec['dataset']}, and the server is VOC's: run it with --dataset {VOC12.name}")
    if SPLIT not in spec["protocol"]["eval_splits"]:
        raise UserError(f"{title} has no masks of {SPLIT}: run it with --set protocol.eval_splits={SPLIT}")
    if len(record["classes"]) != len(VOC12.classes):
        raise UserError(f"{title} knows {len(record['classes'])} of {len(VOC12.classes)} classes")
    found, whole = record["pictures"][SPLIT], VOC12.official[SPLIT]
    if found != whole:
        raise UserError(f"{title} has {found} of the {whole} images of {SPLIT}: the server takes all or none")
    stage = "segment" if "verifier" in record else "mask"
    if stage == "mask" and record["applied"]["gating"][SPLIT] == "gt":
        raise UserError(f"{title}: its masks of {SPLIT} are gated by ground-truth image labels, which nobody may see")
    return stage
