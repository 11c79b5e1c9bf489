"""Small archives in the layout of the official ones, and a server of them that can cut, lie and refuse."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import yaml
from PIL import Image

from harness.data.base import voc_palette

VOC_TRAIN, VOC_VAL = ("2007_000001", "2007_000002"), ("2007_000003", "2007_000004")
SBD_ONLY = ("2008_000005", "2008_000006", "2008_000007")


def image(seed: int, height: int = 24, width: int = 32) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


def voc_mask(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A mask of two objects with VOC's border of 255."""
    mask = np.zeros((height, width), np.uint8)
    mask[2:12, 3:15] = 255
    mask[3:11, 4:14] = 1 + seed % 20
    mask[15:20, 20:30] = 15
    return mask


def png(mask: np.ndarray, palette: list[int] | None = None) -> bytes:
    data, image = io.BytesIO(), Image.fromarray(mask)
    if palette:
        image.putpalette(palette)
    image.save(data, "PNG")
    return data.getvalue()


def annotation(*names: str) -> bytes:
    objects = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f"<annotation>{objects}</annotation>".encode()


def voc_files(others: tuple[str, ...] = SBD_ONLY) -> dict[str, bytes]:
    files = {}
    inside = "VOCdevkit/VOC2012"
    for number, name in enumerate((*VOC_TRAIN, *VOC_VAL, *others)):
        files[f"{inside}/JPEGImages/{name}.jpg"] = image(number)
        files[f"{inside}/Annotations/{name}.xml"] = annotation("person", "cat")
    for number, name in enumerate((*VOC_TRAIN, *VOC_VAL)):
        files[f"{inside}/SegmentationClass/{name}.png"] = png(voc_mask(number), voc_palette())
    for split, names in {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": VOC_TRAIN + VOC_VAL}.items():
        files[f"{inside}/ImageSets/Segmentation/{split}.txt"] = ("\n".join(names) + "\n").encode()
    return files


def sbd_mask(number: int) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[5:20, number % 20 : number % 20 + 9] = 1 + number % 20
    return mask


def sbd_mat(mask: np.ndarray) -> bytes:
    data = io.BytesIO()
    scipy.io.savemat(data, {"GTcls": {"Segmentation": mask, "Boundaries": np.zeros((1, 1)), "CategoriesPresent": 1}})
    return data.getvalue()


def sbd_files(others: tuple[str, ...] = SBD_ONLY) -> dict[str, bytes]:
    """SBD has masks of VOC's images too, other ones; and its own lists, which do not keep VOC's val apart."""
    inside = "benchmark_RELEASE/dataset"
    names = (*others, VOC_TRAIN[0], VOC_VAL[0])
    files = {f"{inside}/cls/{name}.mat": sbd_mat(sbd_mask(number)) for number, name in enumerate(names)}
    files[f"{inside}/train.txt"] = "\n".join((others[0], VOC_VAL[0], VOC_TRAIN[0])).encode()
    files[f"{inside}/val.txt"] = "\n".join(others[1:]).encode()
    files["benchmark_RELEASE/README"] = b"what nobody unpacks"
    return files


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_sources(path: Path, name: str, files: list[Path], counts: dict[str, int], base: str = "") -> Path:
    """Write a file of addresses and checksums; the addresses begin with `base`."""
    archives: dict[str, Any] = {}
    for file in files:
        data = file.read_bytes()
        archives[file.name] = {
            "urls": [f"{base}/{file.name}"] if base else ["http://nowhere.invalid/"],
            "size": len(data), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(), "unpacks_to": 10_000_000,
        }  # fmt: skip
    path.write_text(yaml.safe_dump({name: {"archives": archives, "counts": counts}}))
    return path


@dataclass
class Server:
    """Serves a folder on loopback.

    `cuts` is how many bytes each of the next answers gives before the connection is cut; `asked` what was asked for.
    """

    folder: Path
    cuts: list[int] = field(default_factory=list)
    refuse: int = 0
    ranges: bool = True
    version: str = '"1"'
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        span = handler.headers.get("Range")
        self.asked.append((handler.path, span))
        path = self.folder / handler.path.lstrip("/")
        if self.refuse or not path.is_file():
            handler.send_error(self.refuse or 404)
            return
        data, start = path.read_bytes(), 0
        if span and self.ranges and handler.headers.get("If-Range") in (None, self.version):
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(data)}")
                handler.end_headers()
                return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        if self.version:
            handler.send_header("ETag", self.version)
        handler.end_headers()
        handler.wfile.write(data[start:][: self.cuts.pop(0) if self.cuts else None])


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()
