"""Checks of what a plugin says of itself."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

from harness.check.case import BACKBONES, Case
from harness.check.suite import NotApplicableError, check, checks, must
from harness.errors import closest
from harness.method import Params, RefinerParams
from harness.registry import NAME
from harness.run.resources import known
from harness.source_hash import built_on, package_files, plugin_line, versioned_file
from harness.strict import canonical

_ALL = ("method", "refiner", "dataset")
_WITH_PARAMS = ("method", "refiner")


@check(*_ALL)
def imports(case: Case) -> None:
    """Workers load a plugin by its name, in a process of their own; what it changes by being imported, it changes for
    every other plugin.

    Fix the import; `python FILE` shows the whole traceback. Keep the module free of side effects.
    """
    must(not case.entry.broken, case.entry.broken)
    must(not case.import_effects, f"importing it changes the {', the '.join(case.import_effects)}")


@check(*_ALL)
def named(case: Case) -> None:
    """The name is typed: in --methods a,b, as NAME.KEY in --set, as NAME:PRESET. Commas, dots and colons part it.

    Name it in small letters, digits, - and _, beginning with a letter.
    """
    must(re.fullmatch(NAME, case.entry.name), f"'{case.entry.name}' cannot be typed where names are")


@check(*_ALL)
def documented(case: Case) -> None:
    """A reader of a table asks what a name stands for; `harness list` and `describe` answer with the docstring.

    Give the class a docstring; its first line is what `harness list` shows.
    """
    own = vars(case.plugin).get("__doc__") or ""
    must(own.strip(), f"{case.plugin.__name__} has no docstring of its own")


@check("method")
def cited(case: Case) -> None:
    """A score in a table belongs to a paper.

    Set `cite` to the BibTeX key of the paper, as `cite = 'zhou2016cam'`.
    """
    must(case.plugin.cite, "no `cite`")


@check(*_ALL)
def exceptions_explained(case: Case) -> None:
    """An exception is allowed, a silent one is not: each stands with its reason, under the name of a check.

    Write what fails and why: expected_failures = {'cited': 'a baseline of ours'}.
    """
    known_checks = [one.name for one in checks(case.entry.kind)]
    for name, why in case.plugin.expected_failures.items():
        must(name in known_checks, f"expected_failures names no check '{name}': {closest(name, known_checks)}")
        must(str(why).strip(), f"expected_failures gives no reason for '{name}'")


@check("method")
def well_declared(case: Case) -> None:
    """What a method declares decides which cells make sense, how its maps are read, and what tables say of it.

    Write tuples with a comma, families = ('vit',), and the words that the docstring of Method has.
    """
    plugin = case.plugin
    for name, value in (("families", plugin.families), ("supervision", plugin.supervision)):
        words = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        must(words, f"`{name}` is {value!r}, not a tuple of words")
    for family in plugin.families:
        must(family in BACKBONES, f"`families` has {family!r}: {closest(family, BACKBONES)}")
    must(plugin.output in ("activation", "probability", "labels"), f"`output` is {plugin.output!r}")
    known(plugin.resources)


@check(*_WITH_PARAMS)
def has_defaults(case: Case) -> None:
    """A plain run must work, and its settings stand in the key: in JSON, and the same when they are read again.

    Subclass harness.Params (or TrainParams, RefinerParams) and give every field a default.
    """
    base = Params if case.entry.kind == "method" else RefinerParams
    must(issubclass(case.plugin.Params, base), f"`Params` is no subclass of harness.{base.__name__}")
    required = [name for name, field in case.plugin.Params.model_fields.items() if field.is_required()]
    if required and case.entry.kind == "refiner" and case.registry.names(case.entry.name):
        return  # its presets give them
    must(not required, f"no default for {', '.join(required)}")
    params = case.plugin.Params()
    dumped = params.model_dump(mode="json")
    canonical(dumped)
    same = case.plugin.Params.model_validate(dumped) == params
    must(same, "the settings are not the same when they are read again from JSON")


@check(*_WITH_PARAMS)
def settings_documented(case: Case) -> None:
    """A setting that nobody can explain cannot be reported, and `harness describe` shows each with its default.

    Describe it under Attributes in the docstring of Params, as `width : int`.
    """
    text = "\n".join(inspect.cleandoc(vars(cls).get("__doc__") or "") for cls in case.plugin.Params.__mro__)
    heads = re.findall(r"^(\w+(?:, \w+)*) : ", text, re.MULTILINE)
    described = {*", ".join(heads).split(", "), *re.findall(r"`(\w+)`", text)}
    missing = [name for name in case.plugin.Params.model_fields if name not in described]
    must(not missing, f"not described: {', '.join(missing)}")


@check(*_ALL)
def versioned(case: Case) -> None:
    """The key of a stage holds the version of the plugin: one that it pins, or a hash of its module or package. Code
    that stands elsewhere could change numbers under the same key.

    Put the code into the plugin's own package, or pin `version` and change it whenever numbers change.
    """
    version = case.plugin.version
    if version is not None:
        must(isinstance(version, str) and version.strip(), f"`version` is {version!r}, not a text")
        return
    covered = []
    for source in {file for item in plugin_line(case.plugin) for file in built_on(versioned_file(item.__module__))}:
        covered += package_files(source.parent) if source.name == "__init__.py" else [source]
    for name in {name for path in covered if path.suffix == ".py" for name in _imported(path)}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and Path(file) not in covered:
            finding = f"it imports {name} ({Path(file).name}), which its version does not cover"
            must(_published(name, Path(file)), finding)


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _published(name: str, file: Path) -> bool:
    """Return whether a module is the harness's, Python's own, or of an installed distribution; no method is."""
    top, installed = name.partition(".")[0], {"site-packages", "dist-packages"}
    return top in ("harness", *sys.stdlib_module_names) or (
        top != "wsss_methods" and not installed.isdisjoint(file.parts)
    )


@check("method", needs=("has_defaults", "well_declared"))
def takes_small_settings(case: Case) -> None:
    """All further checks train and score it on toy images of 64 pixels, with backbones of 0.3 million weights.

    Give settings that it takes, as --set NAME.image_size=224 or `settings` of parametrize_with_checks.
    """
    assert case.cell


@check("method", needs=("takes_small_settings",))
def skips_with_a_reason(case: Case) -> None:
    """The reason stands in the table instead of a score. What is skipped here cannot be checked any further.

    Return None, or one line that says why the cell makes no sense.
    """
    why = case.plugin.skip(case.cell.spec)
    must(why is None or (isinstance(why, str) and why.strip()), f"`skip` returns {why!r}")
    if case.cell.skip:
        raise NotApplicableError(f"skipped here: {case.cell.skip}")
