"""Write a working plugin with its test and its page: a file to change rather than an empty one to fill."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from harness.errors import UserError
from harness.registry import CODE_KINDS, Registry, configs

_RUN = {
    "method": "{given}--methods {name},vitpcm",
    "refiner": "{given}--methods cam --refine none,{name}",
    "dataset": "{given}--methods cam,sanity-oracle --dataset {name}",
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
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise UserError(f"'{name}' is no name: small letters, digits, - and _, beginning with a letter")
    if name in Registry().names(kind):
        raise UserError(f"there is a {kind} '{name}' already: take another name")
    module = name.replace("-", "_")
    texts = _package(kind, name, module) if package else _files(kind, name, module)
    paths = {folder / path: text for path, text in texts.items()}
    for path in [folder / name] if package else paths:
        if path.exists():
            raise UserError(f"{path.name} is there already: take another name, or move it away")
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(paths)


def _files(kind: str, name: str, module: str) -> dict[str, str]:
    file = f"{module}.py"
    test = {
        "imports": "from pathlib import Path\n",
        "target": f'str(Path(__file__).with_name("{file}"))',
    }
    page = {"install": "pip install wsss-harness", "target": file, "run": _run(kind, name, f"--plugins {file} ")}
    return {
        file: _filled(f"{kind}.py", kind, name),
        f"test_{file}": _filled("test.py", kind, name, **test),
        f"{module}.md": _filled("page.md", kind, name, **page),
    }


def _package(kind: str, name: str, module: str) -> dict[str, str]:
    module = f"wsss_{module}"
    page = {"install": "pip install .", "target": name, "run": _run(kind, name, "")}
    return {
        f"{name}/{module}/__init__.py": _filled(f"{kind}.py", kind, name),
        f"{name}/tests/test_{module}.py": _filled("test.py", kind, name, imports="", target=f'"{name}"'),
        f"{name}/README.md": _filled("page.md", kind, name, **page),
        f"{name}/pyproject.toml": _filled("pyproject.toml", kind, name, module=module),
    }


def _run(kind: str, name: str, given: str) -> str:
    return _RUN[kind].format(given=given, name=name)


def _filled(template: str, kind: str, name: str, **values: str) -> str:
    text = (configs() / "templates" / f"{template}.txt").read_text("utf-8")
    title = "".join(part.capitalize() for part in re.split("[-_]", name))
    return Template(text).substitute(kind=kind, name=name, title=title, **values)
