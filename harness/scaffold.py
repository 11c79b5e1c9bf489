"""Write a working plugin with its test and its page: a file to change rather than an empty one to fill."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

from harness.errors import UserError
from harness.registry import CODE_KINDS, NAME, Registry, configs

_RUN = {
    "method": "--methods {},vitpcm",
    "refiner": "--methods cam --refine none,{}",
    "dataset": "--methods cam,sanity-oracle --dataset {}",
}


def scaffold(kind: str, name: str, folder: Path, package: bool = False) -> list[Path]:
    """Write a plugin, its test and its page into a folder; or all of them as a package that can be installed.

    Returns
    -------
    list of Path
        What was written; first the plugin.

    Raises
    ------
    UserError
        If the name cannot be typed or is taken, or a file of that name is there.
    """
    if kind not in CODE_KINDS:
        raise UserError(f"harness new {kind}: expected {', '.join(CODE_KINDS)}")
    if not re.fullmatch(NAME, name):
        raise UserError(f"'{name}' is no name: small letters, digits, - and _, beginning with a letter")
    if name in Registry().names(kind):
        raise UserError(f"there is a {kind} '{name}' already: take another name")
    module = name.replace("-", "_")
    if not package and find_spec(module):
        raise UserError(f"{module}.py would hide the module {module} from the tests beside it: take another name")
    paths = {folder / path: text for path, text in _texts(kind, name, package).items()}
    for path in [folder / name] if package else paths:
        if path.exists():
            raise UserError(f"{path.name} is there already: take another name, or move it away")
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(paths)


def _texts(kind: str, name: str, package: bool) -> dict[str, str]:
    """Return what is to be written, by path."""
    module = name.replace("-", "_")
    values = {"kind": kind, "name": name, "title": "".join(part.capitalize() for part in module.split("_"))}
    if package:
        module = f"wsss_{module}"
        plugin, test, page = f"{name}/{module}/__init__.py", f"{name}/tests/test_{module}.py", f"{name}/README.md"
        places = {f"{kind}.py": plugin, "test.py": test, "page.md": page, "pyproject.toml": f"{name}/pyproject.toml"}
        values |= {"install": "pip install .", "target": name, "given": "", "imports": "", "tested": f'"{name}"'}
    else:
        plugin = f"{module}.py"
        places = {f"{kind}.py": plugin, "test.py": f"test_{plugin}", "page.md": f"{module}.md"}
        values |= {"install": "pip install wsss-harness", "target": plugin, "given": f"--plugins {plugin} "}
        values |= {"imports": "from pathlib import Path\n", "tested": f'str(Path(__file__).with_name("{plugin}"))'}
    values |= {"module": module, "run": _RUN[kind].format(name)}
    templates = configs() / "templates"
    return {
        path: Template((templates / f"{template}.txt").read_text("utf-8")).substitute(values)
        for template, path in places.items()
    }
