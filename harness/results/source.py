"""What a source of results holds: records and manifests, taken only if they have the name and form of ours."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, StringConstraints, TypeAdapter

from harness.archive import File, Source, UnreadableFileError, is_plain
from harness.errors import UserError
from harness.results.record import OPEN, Key, StageFacts, plain, problem_of
from harness.results.store import LOG, MANIFEST, parse_record
from harness.stages import STAGES
from harness.strict import KEY, digest

if TYPE_CHECKING:
    from harness.inputs import ScanProgress

TEXT_BYTES = 16 << 20  # of one record or manifest
NUMBERS = (
    "classes",
    "pictures",
    "parameters",
    "choice",
    "metrics",
    "verification",
    "artefacts",
)  # the same in any record of a cell

ArtefactName = tuple[str, str]  # stage and key

_PLACE = re.compile(
    rf"(?P<root>(?:[^/]+/)*?)"
    rf"(?:(?P<marker>store\.json)|records/(?P<record>{KEY})\.json"
    rf"|artefacts/(?P<stage>{'|'.join(STAGES)})/(?P<key>{KEY})/(?P<file>[^/]+))"
)


def _file_name(name: str) -> str:
    if not is_plain(name) or "/" in name or name == MANIFEST:
        raise ValueError("no name of an artefact's file")
    return name


_Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_FileName = Annotated[str, AfterValidator(_file_name)]


@OPEN
class _Manifest(StageFacts):
    config: dict[str, Any]
    parents: dict[str, Key]
    files: dict[_FileName, _Sha256]


_MANIFEST = TypeAdapter(_Manifest)


@dataclass(frozen=True)
class RecordFacts:
    """What is remembered of a record: its status, and digests of the parts that count and of the whole."""

    status: str
    numbers: dict[str, str]
    whole: str

    def clash(self, other: RecordFacts) -> str:
        """Return the parts in which two successes of a cell contradict each other."""
        if self.status != "done" or other.status != "done":
            return ""
        return ", ".join(name for name in NUMBERS if self.numbers[name] != other.numbers[name])

    def replaces(self, other: RecordFacts) -> bool:
        """Return whether this is a success and the other one a failure."""
        return self.status == "done" and other.status != "done"


@dataclass
class ArtefactFacts:
    """What is remembered of an artefact: how many files and bytes, digests, and what is wrong with its manifest."""

    files: int = 0
    bytes: int = 0
    manifest: str = ""
    content: str = ""
    problem: str = "it has no manifest"


@dataclass
class Survey:
    """What a source holds.

    Attributes
    ----------
    root : str
        The folder in the source that is the store: empty, or with a slash at its end.
    marked : bool
        Whether `store.json` is there.
    records : dict
        RecordFacts by key.
    artefacts : dict
        ArtefactFacts by stage and key.
    """

    root: str = ""
    marked: bool = False
    records: dict[str, RecordFacts] = field(default_factory=dict)
    artefacts: dict[ArtefactName, ArtefactFacts] = field(default_factory=dict)


def survey(source: Source, progress: ScanProgress) -> Survey:
    """Read a source's records and manifests; keep digests only, so that it may be large.

    Raises
    ------
    UserError
        If it is no store, one of another schema, or if a record in it is damaged.
    """
    found: dict[str, Survey] = defaultdict(Survey)
    for place, file in places(source, progress):
        here, where = found[place["root"]], f"{source.path}: {file.name}"
        if place["marker"]:
            here.marked = bool(parse_record(text_of(file), where))
        elif place["record"]:
            here.records[place["record"]] = record_facts(parse_record(text_of(file), where), place["record"], where)
        else:
            _take_down(here.artefacts.setdefault((place["stage"], place["key"]), ArtefactFacts()), place, file)
    roots = [root for root, store in found.items() if store.marked]
    if not roots:
        raise UserError(f"no results in {source.path}: there is no store.json")
    depth = min(root.count("/") for root in roots)
    root, *others = [root for root in roots if root.count("/") == depth]
    if others:
        raise UserError(f"{source.path} holds more than one results folder: {', '.join([root, *others])}")
    found[root].root = root
    return found[root]


def places(source: Source, progress: ScanProgress) -> Iterator[tuple[re.Match[str], File]]:
    """Yield what may belong to a store: each file with `root`, and `marker`, `record`, or `stage`, `key` and `file`."""
    for file in source.files():
        progress(str(source.path), int(100 * file.share), 100)
        if place := _PLACE.fullmatch(file.name):
            yield place, file


def text_of(file: File) -> bytes:
    """Return the content of a record or a manifest.

    Raises
    ------
    UnreadableFileError
        If it is damaged, or too long for one.
    """
    if file.size > TEXT_BYTES:
        raise UnreadableFileError(f"{file.name} is too long for a record or a manifest")
    return b"".join(file.chunks())


def record_facts(record: Mapping[str, Any], key: str, where: str) -> RecordFacts:
    """Return what to remember of a record.

    Raises
    ------
    UserError
        If it is not in the form of ours, or of another cell.
    """
    try:
        if problem := problem_of(record) or ("it is of another cell" if record["key"] != key else ""):
            raise ValueError(problem)
        return RecordFacts(record["status"], {name: digest(record.get(name)) for name in NUMBERS}, digest(record))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a record: {plain(error)}") from None


def content_of(files: dict[str, str]) -> str:
    """Return a digest of what artefacts of one stage must have in common: all files but what was printed."""
    return digest({name: sha256 for name, sha256 in files.items() if name != LOG})


def _take_down(facts: ArtefactFacts, place: re.Match[str], file: File) -> None:
    """Remember one more file of an artefact."""
    facts.files += 1
    facts.bytes += file.size
    if place["file"] != MANIFEST:
        return
    try:
        text = text_of(file)
        manifest = parse_record(text, MANIFEST)
        form = _MANIFEST.validate_python(manifest)
        if (form["stage"], form["key"]) != (place["stage"], place["key"]):
            raise ValueError("it is of another artefact")
    except (UserError, ValueError, RecursionError) as error:
        facts.problem = f"its manifest is not one: {plain(error)}"
    else:
        facts.manifest, facts.content, facts.problem = hashlib.sha256(text).hexdigest(), content_of(form["files"]), ""
