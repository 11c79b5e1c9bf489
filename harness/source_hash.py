"""Versions of plugins: hashes of what their sources do, so that comments and docstrings may be rewritten."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from harness.strict import digest

# Hash of today: hash of its bytes, the version before. Code that has results under that keeps it until it changes.
_RECORDED = {
    "a6a416d487b08e23": "ef678281cc62b970",  # crf
    "bcda4b65b67a4562": "ef0acb349eba1cdc",  # pamr
    "af2deb220d5e4e20": "431d1be711bd7e3a",  # sanity
}
_CONTRACT = ("harness.method", "harness.data.base")
_NUMBERS = {  # of kinds of tokens, in Python 3.11
    "ENDMARKER": 0, "NAME": 1, "NUMBER": 2, "STRING": 3, "NEWLINE": 4, "INDENT": 5, "DEDENT": 6, "OP": 54,
    "ERRORTOKEN": 60, "ENCODING": 63,
}  # fmt: skip
_STRING, _NEWLINE = _NUMBERS["STRING"], _NUMBERS["NEWLINE"]
# What a statement comes after.
_BEGINNINGS = tuple(_NUMBERS[name] for name in ("ENCODING", "NEWLINE", "INDENT", "DEDENT"))


def source_hash(source: Path) -> str:
    """Return a hash of a module's file, or of every file of its package but its README."""
    files = package_files(source.parent) if source.name == "__init__.py" else [source]
    content_hash = hashlib.sha256()
    for file in files:
        content = code_of(file.read_bytes()) if file.suffix == ".py" else file.read_bytes()
        content_hash.update(str(file.relative_to(source.parent)).encode() + b"\0" + content + b"\0")
    found = content_hash.hexdigest()[:16]
    return _RECORDED.get(found, found)


def plugin_line(plugin: type) -> list[type]:
    """Return a plugin's class and those that it builds on, without the contract's own."""
    return [item for item in plugin.__mro__ if any(base.__module__ in _CONTRACT for base in item.__mro__[1:])]


def versioned_file(module: str) -> Path:
    """Return the file whose hash is a plugin's version: of its whole package, or of its module where it has none.

    Each built-in method is a package of its own in this.
    """
    top, _, rest = module.partition(".")
    package = f"{top}.{rest.partition('.')[0]}" if top == "wsss_methods" else top
    return Path(str(sys.modules[package].__file__ or sys.modules[module].__file__))  # None for a namespace package


def plugin_version(plugin: type) -> str:
    """Return the version of a method or refiner: of its source, and of those of the plugins that its class builds on.

    Built-in ones may import each other's modules, which count as theirs. A version that a class pins stands for all
    that it builds on.
    """
    found: dict[str, None] = {}
    for item in plugin_line(plugin):
        if pinned := vars(item).get("version"):
            found[str(pinned)] = None
            break
        found |= dict.fromkeys(source_hash(file) for file in built_on(versioned_file(item.__module__)))
    return next(iter(found)) if len(found) == 1 else digest(list(found))[:16]


def built_on(file: Path) -> list[Path]:
    """Return the file of a plugin, and those of the built-in ones whose modules it imports, or they do."""
    found, todo = [file], [file]
    while todo:
        source = todo.pop()
        texts = package_files(source.parent) if source.name == "__init__.py" else [source]
        for text in (text for text in texts if text.suffix == ".py"):
            for module in re.findall(r"^from (wsss_methods\.\w+)", text.read_text("utf-8"), re.MULTILINE):
                other = versioned_file(module)
                if other not in found:
                    found.append(other)
                    todo.append(other)
    return found


def package_files(folder: Path) -> list[Path]:
    """Return the files of a package that can change what it does: no caches, no hidden files, no README."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(folder).parts)
        and path.stem != "README"
    ]


def code_of(source: bytes) -> bytes:
    """Return the tokens of a module without comments, empty lines, and texts that are a statement: docstrings.

    They are those of Python 3.11 whatever runs this: later versions number tokens otherwise, and take f-strings apart.
    """
    kept: list[tuple[int, str]] = []
    try:
        for kind, text in _tokens(source):
            if kind == _NEWLINE and kept[-1][0] == _STRING and kept[-2][0] in _BEGINNINGS:
                kept.pop()
                continue
            kept.append((kind, text))
    except (SyntaxError, tokenize.TokenError):  # a template, say
        return source
    return "\0".join(f"{kind} {text}" for kind, text in kept).encode()


def _tokens(source: bytes) -> Iterator[tuple[int, str]]:
    """Yield numbers and texts of all tokens but comments and empty lines, an f-string being one."""
    lines = source.decode("utf-8").splitlines(keepends=True)
    inside, begun = 0, (0, 0)
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            begun = begun if inside else token.start
            inside += 1
        elif name == "FSTRING_END":
            inside -= 1
            if not inside:
                yield _STRING, _between(lines, begun, token.end)
        elif not inside and name not in ("COMMENT", "NL"):
            yield _NUMBERS[name], token.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text between two places, each a line from 1 and a column."""
    text = lines[start[0] - 1 : end[0]]
    text[-1] = text[-1][: end[1]]
    text[0] = text[0][start[1] :]
    return "".join(text)
