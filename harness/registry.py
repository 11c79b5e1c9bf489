"""One lazy registry for every kind of plugin: what exists, where it comes from, and why a broken one is broken.

Code plugins (methods, refiners, datasets) are classes with a `name`; data plugins (backbones, protocols, experiments,
presets of a refiner, published scores) are YAML. Built-in code is listed from its syntax tree, so listing imports
nothing heavy; plugins from outside are imported, because nobody else has vouched that they can be.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError, closest
from harness.source_hash import plugin_version, versioned_file
from harness.strict import read_yaml

CODE_KINDS = {"method": "Method", "refiner": "Refiner", "dataset": "Dataset"}
DATA_KINDS = {
    "backbone": "backbones",
    "protocol": "protocols",
    "experiment": "experiments",
    "published": "published",
    "deeplab": "deeplab",
    "text": "texts",
}
ENTRY_POINT_GROUP = "wsss_harness.plugins"
BUILT_IN = "built-in"
IMPORT_SECONDS = 120.0  # that the import of a plugin may take
NAME = r"[a-z][a-z0-9_-]*"  # what can be typed where names are
_BUILT_IN_PACKAGES = ("wsss_methods", "harness.data")
_NO_REFINERS = ("none", *CODE_KINDS, *DATA_KINDS)  # what asks for no refiner, and the kinds beside those of presets


@dataclass(frozen=True)
class Entry:
    """One thing that can be asked for by name.

    Attributes
    ----------
    kind, name : str
    origin : str
        `built-in`, `package NAME`, or the path or module given with `--plugins`.
    source : Path
        The file that defines it.
    where : str
        `module:Class` for code; empty for data.
    summary : str
        First line of its docstring, or its `summary`.
    broken : str
        Why it cannot be used; empty when it can.
    """

    kind: str
    name: str
    origin: str
    source: Path
    where: str = ""
    summary: str = ""
    broken: str = ""


class Registry:
    """Everything that can be asked for by name.

    Parameters
    ----------
    plugins : iterable of str
        Python or YAML files, package folders or importable modules, as given with `--plugins`.
    """

    def __init__(self, plugins: Iterable[str] = ()) -> None:
        self.plugins = tuple(dict.fromkeys(plugins))
        self._files: dict[Path, Any] = {}
        self._versions: dict[tuple[str, str], str] = {}

    def entries(self, kind: str, pattern: str = "*") -> list[Entry]:
        """Return the entries of a kind, by name; broken ones included."""
        return sorted(
            (entry for entry in self._entries if entry.kind == kind and fnmatch(entry.name, pattern)),
            key=lambda entry: entry.name,
        )

    def names(self, kind: str) -> list[str]:
        """Return the usable names of a kind."""
        return sorted(entry.name for entry in self._asked if entry.kind == kind and not entry.broken)

    def entry(self, kind: str, name: str) -> Entry:
        """Return one usable entry.

        Raises
        ------
        UserError
            If there is none of that name, with the closest one, or if it is broken, with the reason.
        """
        for entry in self._asked:
            if (entry.kind, entry.name) == (kind, name):
                if entry.broken:
                    raise UserError(f"{kind} '{name}' ({entry.origin}) is broken: {entry.broken}")
                return entry
        raise UserError(f"unknown {kind} '{name}': {closest(name, self.names(kind))}")

    def select(self, kind: str, patterns: Iterable[str]) -> list[str]:
        """Expand names and globs, keeping their order and dropping repeats."""
        chosen: dict[str, None] = {}
        for pattern in patterns:
            matches = [name for name in self.names(kind) if fnmatch(name, pattern)]
            chosen.update(dict.fromkeys(matches or [self.entry(kind, pattern).name]))
        return list(chosen)

    def load(self, kind: str, name: str) -> Any:
        """Return the class of a code plugin, or the mapping of a data plugin.

        Raises
        ------
        UserError
            If it is unknown, or does not import.
        """
        entry = self.entry(kind, name)
        if not entry.where:
            if entry.source not in self._files:
                self._files[entry.source] = read_yaml(entry.source)
            data = self._files[entry.source]
            return data[name] if entry.source.parent == configs() else data
        module_name, class_name = entry.where.split(":")
        try:
            module = sys.modules.get(module_name) or importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise UserError(f"{kind} '{name}' ({entry.origin}) does not import: {_reason(error)}") from error
        return getattr(module, class_name)

    def source_version(self, kind: str, name: str) -> str:
        """Return the version of a code plugin: the one that it pins, or a hash of its module or package.

        The plugins that its class builds on count too, so that a change to one of them is a change to it.
        """
        key = (kind, name)
        if key not in self._versions:
            plugin = self.load(kind, name)
            self._versions[key] = str(plugin.version) if kind == "dataset" else plugin_version(plugin)
        return self._versions[key]

    @cached_property
    def data_kinds(self) -> dict[str, str]:
        """The kinds of data and their folders; a refiner's presets are a kind, and have a folder, named after it."""
        return DATA_KINDS | {entry.name: entry.name for entry in self._code if entry.kind == "refiner"}

    @cached_property
    def _code(self) -> list[Entry]:
        return [*_built_in_code(), *_installed(), *self._given()]

    @cached_property
    def _entries(self) -> list[Entry]:
        data = [_data_file(plugin, self.data_kinds) for plugin in self.plugins if _is_yaml(Path(plugin))]
        listed = [*self._code, *_built_in_data(self.data_kinds), *data]
        for plugin in self.plugins:
            if not any(entry.origin == plugin for entry in listed):
                raise UserError(
                    f"--plugins {plugin}: defines no plugin: a class of harness.Method, Refiner or Dataset with a name"
                )
        found: dict[tuple[str, str], Entry] = {}
        for entry in (entry for entry in listed if not entry.broken):
            taken = found.setdefault((entry.kind, entry.name), entry)
            if (taken.where, taken.source.resolve()) != (entry.where, entry.source.resolve()):
                raise UserError(_taken(entry, f"{taken.origin} ({taken.source.name})"))
            if entry.kind == "refiner" and entry.name in _NO_REFINERS:
                raise UserError(_taken(entry, "the harness"))
        return [*found.values(), *(entry for entry in listed if entry.broken)]

    @cached_property
    def _asked(self) -> list[Entry]:
        """All entries, where none that was given with `--plugins` is broken; else nothing is found under any name."""
        for entry in self._entries:
            if entry.broken and entry.origin in self.plugins:
                raise UserError(f"--plugins {entry.origin}: {entry.broken}")
        return self._entries

    def _given(self) -> Iterator[Entry]:
        for plugin in self.plugins:
            path = Path(plugin)
            if _is_yaml(path):
                continue
            if path.exists():
                yield from _import_and_list(plugin, path.stem, lambda path=path: _import_path(path), path)
            elif path.suffix == ".py" or os.sep in plugin:
                yield Entry("method", path.stem, plugin, path, broken="there is no such file or folder")
            else:
                yield from _import_and_list(
                    plugin, plugin, lambda plugin=plugin: importlib.import_module(plugin), Path(plugin)
                )


def configs() -> Path:
    """Return the folder of the packaged YAML files."""
    return Path(importlib.import_module("harness.configs").__path__[0])


def _built_in_code() -> Iterator[Entry]:
    """List the built-in plugin classes from their syntax trees."""
    found = [(package, path, node) for package in _BUILT_IN_PACKAGES for path, node in _classes(package)]
    bases = {node.name: [b.id for b in node.bases if isinstance(b, ast.Name)] for _, _, node in found}
    roots = {root: kind for kind, root in CODE_KINDS.items()}

    def kind_of(class_name: str) -> str | None:
        return roots.get(class_name) or next(filter(None, map(kind_of, bases.get(class_name, []))), None)

    for package, path, node in found:
        kind, name = kind_of(node.name), _literal(node, "name")
        if kind and name:
            stem = path.parent.name if path.name == "__init__.py" else path.stem
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            yield Entry(kind, name, BUILT_IN, path, f"{package}.{stem}:{node.name}", summary)


def _classes(package: str) -> Iterator[tuple[Path, ast.ClassDef]]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise UserError(f"the package '{package}' is missing: install wsss-harness again")
    folder = Path(spec.submodule_search_locations[0])
    for path in sorted([*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")]):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                yield path, node


def _literal(node: ast.ClassDef, attribute: str) -> str | None:
    """Return the text that a class body assigns to a name."""
    for statement in node.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == attribute:
            return str(statement.value.value)
    return None


def _built_in_data(kinds: Mapping[str, str]) -> Iterator[Entry]:
    for kind, stem in kinds.items():
        single = configs() / f"{stem}.yaml"
        if single.exists():
            for name, value in read_yaml(single).items():
                yield Entry(kind, name, BUILT_IN, single, summary=value.get("summary", ""))
        for path in sorted((configs() / stem).glob("*.yaml")):
            yield Entry(kind, path.stem, BUILT_IN, path, summary=read_yaml(path).get("summary", ""))


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _data_file(plugin: str, kinds: Mapping[str, str]) -> Entry:
    """List a YAML file of the user's; the folder that it lies in says of which kind it is."""
    path = Path(plugin)
    kind = next((kind for kind, folder in kinds.items() if path.absolute().parent.name == folder), "")
    if not kind:
        raise UserError(f"--plugins {path}: put it into a folder named {' or '.join(kinds.values())}")
    try:
        return Entry(kind, path.stem, plugin, path, summary=read_yaml(path).get("summary", ""))
    except UserError as error:
        return Entry(kind, path.stem, plugin, path, broken=str(error).replace(str(path), path.name))


def _installed() -> Iterator[Entry]:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        origin = f"package {point.dist.name}" if point.dist else f"entry point {point.name}"
        yield from _import_and_list(origin, point.name, point.load, Path(point.value))


def _import_and_list(origin: str, name: str, importer: Any, path: Path) -> Iterator[Entry]:
    """Import a plugin from outside and list its classes; if that fails, list it as broken."""
    try:
        with redirect_stdout(sys.stderr), _in_time(IMPORT_SECONDS):  # what a command prints is its own
            module: ModuleType = importer()
        classes = [item for item in vars(module).values() if isinstance(item, type) and "name" in vars(item)]
    except (Exception, SystemExit) as error:
        yield Entry("method", name, origin, path, broken=f"does not import: {_reason(error)}")
        return
    for item in classes:
        kind = next((k for k, base in CODE_KINDS.items() if base in {c.__name__ for c in item.__mro__[1:]}), None)
        if kind and item.__module__.startswith(module.__name__):
            if not isinstance(vars(item)["name"], str):
                yield Entry(kind, item.__name__, origin, path, broken=f"its name is {vars(item)['name']!r}, not text")
                continue
            file = versioned_file(item.__module__)
            summary = (item.__doc__ or "").strip().partition("\n")[0]
            yield Entry(kind, vars(item)["name"], origin, file, f"{item.__module__}:{item.__name__}", summary)


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer; only the main thread can, and compiled code is interrupted once it returns."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again, where the code catches exceptions
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _taken(entry: Entry, by: str) -> str:
    return f"{entry.kind} '{entry.name}' of {entry.origin}: the name is taken by {by}; give it another one"


def _import_path(path: Path) -> ModuleType:
    """Import a file or a package folder under a private name that its path decides."""
    source = path / "__init__.py" if path.is_dir() else path
    name = f"wsss_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, source, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file or package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
