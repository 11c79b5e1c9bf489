"""The one reader of what people write by hand, tables of image labels and lists of ids; errors name the line."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UserError

ID, SPLIT = "id", "split"


@dataclass(frozen=True)
class LabelTable:
    """A table of image labels.

    Attributes
    ----------
    classes : list of str
        The columns beside `id` and `split`, in order.
    labels : dict
        The names of the classes that an image shows, by id.
    splits : dict
        By id; empty where the table names none.
    """

    classes: list[str]
    labels: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    UserError
        If it is not there, or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_labels(path: Path, sample: str) -> LabelTable:
    """Read a table with a line per image: its id, and 1 or 0 for each class.

    Parameters
    ----------
    path : Path
        Comma-separated; the first line names the columns.
    sample : str
        Lines as they should be, for error messages.

    Raises
    ------
    UserError
        With the line and the sample.
    """

    def wrong(line: int, why: str) -> UserError:
        return UserError(f"{path}:{line}: {why}; expected lines like\n{sample}")

    rows = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        columns = [name.strip() for name in next(rows, [])]
        classes = [name for name in columns if name not in (ID, SPLIT)]
        if ID not in columns or not classes:
            other = next((mark for mark in ";\t|" if mark in "".join(columns)), "")
            hint = f", it is separated by {other!r} instead of ','" if other else ""
            raise wrong(1, f"does not begin with a line of columns{hint}")
        if doubled := _twice(columns):
            raise wrong(1, f"column '{doubled}' stands here twice")
        if "" in columns:
            raise wrong(1, "a column has no name")
        table = LabelTable(classes)
        for row in rows:
            if not any(value.strip() for value in row):
                continue
            values = dict(zip(columns, map(str.strip, row), strict=False))
            if len(row) != len(columns):
                raise wrong(rows.line_num, f"{len(row)} values for {len(columns)} columns")
            image_id = values.pop(ID)
            if not image_id or image_id in table.labels:
                raise wrong(rows.line_num, f"this id stands here twice: {image_id}" if image_id else "no id")
            if SPLIT in values:
                table.splits[image_id] = values.pop(SPLIT)
            if odd := next((value for value in values.values() if value not in ("0", "1")), None):
                raise wrong(rows.line_num, f"each class needs 0 or 1, not '{odd}'")
            if "" in values.values():
                raise wrong(rows.line_num, "each class needs 0 or 1, not nothing")
            table.labels[image_id] = [name for name in classes if values[name] == "1"]
    except csv.Error as error:
        raise wrong(rows.line_num, f"not a table: {error}") from None
    return table


def read_ids(path: Path) -> list[str]:
    """Read a list with an id per line.

    Raises
    ------
    UserError
        With the line; the lists of VOC's classes and of DeepLab are known by their looks.
    """
    ids: dict[str, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        looks = ""
        if len(words) == 2 and words[1] in ("-1", "0", "1"):
            looks = "VOC's list of a class, with flags"
        elif "/" in words[0] or Path(words[0]).suffix.lower() in (".jpg", ".jpeg", ".png"):
            looks = "a list of files, as DeepLab's"
        elif len(words) > 1:
            looks = "more than one id"
        if looks:
            raise UserError(f"{path}:{number}: expected one id a line, as 2007_000032; this looks like {looks}")
        if words[0] in ids:
            raise UserError(f"{path}:{number}: the id {words[0]} stands here twice")
        ids[words[0]] = None
    return list(ids)


def _twice(names: list[str]) -> str:
    """Return a name that stands in a list more than once."""
    return next((name for name in names if names.count(name) > 1), "")
