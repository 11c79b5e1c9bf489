"""The page as a file: what stands in it, and what must not. `tests/browser` opens it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from harness.data.base import voc_palette
from harness.registry import Registry
from harness.report.citations import bibtex, references
from harness.report.dataframe import load_results
from harness.report.formats import csv_text
from harness.report.html import EMBEDDED, page_title, write_page
from harness.report.tables import comparison
from tests.pages import CLASSES, DEMO, HOSTILE, hostile, images, many, page, real


class Reader(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def embedded(reader: Reader) -> dict[str, dict[str, object]]:
    """The records as the page's script sees them."""
    data = json.loads(reader.scripts[0])
    return {
        key: {field: data["values"][place] for field, place in zip(data["fields"], places, strict=True)}
        for key, places in data["records"].items()
    }


def test_what_looks_like_markup_stays_text(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html", hostile(), images(2)).read_text()
    reader = Reader(text)
    assert HOSTILE not in text
    assert "&lt;b&gt;x&lt;/b&gt;&lt;script&gt;" in text
    assert text.count("<script") == text.count("</script>") == len(reader.all("script")) == 2
    assert not reader.all("b")
    assert not reader.all("i")
    records = embedded(reader)
    assert records["a" * 20]["method"] == HOSTILE
    assert records["b" * 20]["tail"] == f"</script>{HOSTILE}<!--"


def test_nothing_on_the_page_comes_from_elsewhere(tmp_path: Path) -> None:
    reader = Reader(page(tmp_path / "report.html", hostile(), images(EMBEDDED + 2)).read_text())
    addresses = [
        value or "" for _, attributes in reader.tags for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster", "data")
    ]  # fmt: skip
    assert addresses
    beside = [address for address in addresses if not address.startswith(("data:", "#"))]
    assert len(beside) == 2 * 3
    assert all((tmp_path / address).is_file() for address in beside)
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text().partition("</style>")[0])


def test_the_same_records_are_the_same_bytes(tmp_path: Path) -> None:
    first = page(tmp_path / "one" / "report.html", hostile(), images(EMBEDDED + 1))
    second = page(tmp_path / "two" / "report.html", hostile(), images(EMBEDDED + 1))
    assert first.read_bytes() == second.read_bytes()
    files = sorted(path.name for path in (tmp_path / "one" / "report-images").iterdir())
    assert files == ["0036-0.jpeg", "0036-1.png", "0036-2.png"]
    for name in files:
        assert (first.parent / "report-images" / name).read_bytes() == (
            second.parent / "report-images" / name
        ).read_bytes()


def test_every_score_links_to_its_records(tmp_path: Path) -> None:
    reader = Reader(page(tmp_path / "report.html", real()).read_text())
    linked = {key for a in reader.all("a") for key in re.findall(r"record=(\w+)", a["href"] or "")}
    assert linked == {path.stem for path in (DEMO / "records").iterdir()} == set(embedded(reader))


def test_the_page_hands_on_its_tables_and_what_to_cite(tmp_path: Path) -> None:
    results, registry = load_results(DEMO), Registry()
    (table,) = comparison(results)
    write_page(tmp_path / "page.html", "demo", [table], results, (), citations=bibtex(results, registry))
    reader = Reader((tmp_path / "page.html").read_text("utf-8"))
    held = {
        a["download"]: b64decode((a["href"] or "").partition("base64,")[2]).decode()
        for a in reader.all("a")
        if "download" in a
    }
    assert held["toy-protocol-strict.csv"] == csv_text(table)
    assert set(held) == {f"toy-protocol-strict.{end}" for end in ("csv", "md", "tex")} | {"citations.bib"}
    keys = set(re.findall(r"^@\w+\{(.+),$", held["citations.bib"], re.MULTILINE))
    assert keys == {"wsssharness", "rossetti2022vitpcm", "zhou2016cam"}


def test_verifiers_and_refiners_are_columns_and_not_badges_of_their_own(tmp_path: Path) -> None:
    """Of one table, all records have one protocol, although some have a verifier or a refiner."""
    results = load_results(DEMO.parent / "comparison-short")
    (table,) = comparison(results)
    write_page(tmp_path / "page.html", "short", [table], results, ())
    assert "deeplabv2:lite0" in set(results.verify)
    assert "pamr" in set(results.refine)
    badges = re.findall(
        r'<button [^>]*class="badge protocol"[^>]*>([^<]+)</button>', (tmp_path / "page.html").read_text()
    )
    assert badges == ["the whole protocol", "strict, version 2 with eval_splits=val, label_source=masks"]


def test_every_built_in_method_has_its_bibtex() -> None:
    registry, known = Registry(), references()
    cited = {registry.load(kind, name).cite for kind in ("method", "refiner") for name in registry.names(kind)} - {""}
    assert cited <= known.keys()
    assert all(entry.count("{") == entry.count("}") for entry in known.values())


def test_a_title_says_experiment_dataset_and_protocol() -> None:
    results = load_results(DEMO)
    assert page_title(["demo"], results) == "demo: toy, protocol strict"
    assert page_title([], results) == "toy, protocol strict"
    assert page_title([], results[:0]) == "Results"


def test_two_thousand_records_are_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    records = many(2000)
    path = page(tmp_path / "report.html", records)
    assert path.stat().st_size < 8_000_000
    assert path.stat().st_size < sum(len(json.dumps(record)) for record in records) / 2
    kept = embedded(Reader(path.read_text()))
    assert len(kept) == 2000
    scores = kept[records[7]["key"]]["splits"]["val"]  # type: ignore[index]
    assert scores["iou"] == pytest.approx(records[7]["metrics"]["val"]["iou"], abs=1e-4)
    assert len(scores["iou"]) == CLASSES


def test_an_overlay_has_the_colours_of_its_classes_and_a_clear_background(tmp_path: Path) -> None:
    page(tmp_path / "report.html", real(), images(EMBEDDED + 1))
    overlay = Image.open(tmp_path / "report-images" / "0036-2.png").convert("RGBA")
    assert overlay.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert overlay.getpixel((15, 15)) == (*voc_palette()[6:9], 255)


def test_without_scores_there_is_a_page_of_reasons(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html", hostile()[-1:]).read_text()
    assert "Not scored (1)" in text
    assert "ValueError: &lt;b&gt;" in text
