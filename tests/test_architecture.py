"""The rules of the house, held by tests: who may import whom, and that changed arithmetic changes keys."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
import tokenize
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.fingerprints import ACCEPTED, fingerprints

ROOT = Path(__file__).parent.parent

# Each line may import what stands above it, and its own line.
LAYERS = [
    {"errors", "files", "archive", "run.watchdog"},
    {"strict", "source_hash", "file_setting"},
    {
        "registry",
        "torchvision_ops",
        "provenance",
        "results.lease",
        "results.record",
        "rules",
        "phases",
        "precision",
        "seeds",
        "kmeans",
        "resnet38",
    },
    {"data", "protocol", "deeplab.recipe"},
    {"augment", "cell", "images"},
    {"loader"},
    {"trainable"},
    {"contract"},
    {"training"},
    {"method"},
    {
        "metrics",
        "pseudomask",
        "crf",
        "backbones",
        "timm_models",
        "features",
        "mit",
        "results.store",
        "effective",
        "external",
        "deeplab",
    },
    {"outputs"},
    {"spec", "bootstrap", "parameter_count"},
    {"stages", "inputs"},
    {"run.resources", "run.worker"},
    {"run.opened"},
    {"run.graph"},
    {"run.about"},
    {"run.plan"},
    {"run.record", "run.cluster"},
    {"run.schedule", "run.progress"},
    {"run.estimate", "run.outline"},
    {"report", "doctor", "results.reproduce", "results.submission"},
    {"results.source"},
    {"results.merge", "results.gc"},
    {"predict", "check", "scaffold"},
    {"cli", "__main__"},
]
DOORS = {
    "timm": {"harness.timm_models"},
    "ray": {"harness.run.cluster", "harness.doctor"},
    "pydensecrf": {"harness.crf"},
    "mmseg": {"harness.deeplab.mm"},
    "mmengine": {"harness.deeplab.mm"},
    "mmcv": {"harness.deeplab.mm"},
    "jinja2": {"harness.report.html"},
    "matplotlib": {"harness.report.figures.canvas"},
    "scipy": {"harness.data.prepare.voc"},
    "pycocotools": {"harness.data.prepare.coco"},
    "torchvision": {"harness.augment", "harness.doctor"},
    "open_clip": {"harness.data.prepare.text"},
    "huggingface_hub": {"harness.timm_models"},
}


def modules() -> dict[str, Path]:
    files = [*(ROOT / "harness").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    return {
        name.replace("methods", "wsss_methods", 1) if name.startswith("methods") else name: path
        for path, name in names.items()
    }


def imports(path: Path) -> set[str]:
    """Return what a module imports, for itself or for a type checker: modules, and names in them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rank(name: str) -> int | None:
    """Return the layer of a module; a layer names it, or the package that it is in."""
    parts = name.split(".")[1:]
    places = [".".join(parts[:2]), parts[0]]
    return next((number for place in places for number, layer in enumerate(LAYERS) if place in layer), None)


def test_imports_point_one_way() -> None:
    for name, path in modules().items():
        if not name.startswith("harness.") or name in ("harness.run", "harness.results"):
            continue
        here = rank(name)
        assert here is not None, f"{name} stands in no layer"
        for other in imports(path):
            if other.startswith("harness.") and (there := rank(other)) is not None:
                assert there <= here, f"{name} imports {other}, which stands above it"


def test_no_circle_of_files() -> None:
    files = modules()
    graph = {name: imports(path) & files.keys() - {name, "harness"} for name, path in files.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def test_each_heavy_package_has_one_door() -> None:
    for name, path in modules().items():
        for other in imports(path):
            package = other.partition(".")[0]
            assert name in DOORS.get(package, {name}), f"{name} imports {package}"


def test_without_verification_nothing_needs_an_mm_package(tmp_path: Path) -> None:
    absent = "import sys; sys.modules.update(mmengine=None, mmcv=None, mmseg=None); "
    command = [sys.executable, "-c", absent + "from harness.cli import main; main()", "run", "--methods", "cam", *TINY]
    planned = subprocess.run(
        [*command, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert planned.returncode == 0, planned.stderr


def test_the_harness_knows_no_method_and_methods_know_public_names() -> None:
    public = {"harness", "harness.crf", "harness.kmeans"}
    for name, path in modules().items():
        for other in imports(path):
            if name.startswith("harness"):
                assert not other.startswith("wsss_methods"), f"{name} imports {other}"
            elif other.startswith("harness."):
                assert (
                    any(other == p or other.startswith(f"{p}.") for p in public if p != "harness")
                    or other.count(".") == 1
                ), other


def test_modules_fit_in_a_head() -> None:
    long = {name: lines for name, path in modules().items() if (lines := len(path.read_text().splitlines())) > 350}
    assert not long


def code_lines(path: Path) -> int:
    """Return the lines of a module that hold code: no blank ones, comments or docstrings."""
    text = path.read_text("utf-8")
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def test_the_kit_for_authors_of_plugins_stays_small() -> None:
    """`harness check` and `harness new`, all of them."""
    home = ROOT / "harness"
    files = [*(home / "check").glob("*.py"), home / "scaffold.py", home / "cli" / "check.py", home / "cli" / "new.py"]
    assert sum(map(code_lines, files)) < 1050


def test_a_stage_whose_source_changed_has_a_new_version_or_an_acknowledgement() -> None:
    accepted = json.loads(ACCEPTED.read_text())
    for stage, found in fingerprints().items():
        assert found == accepted[stage], (
            f"the stage '{stage}' changed: bump its version in harness/stages/__init__.py if numbers change, "
            "then run `python -m tests.fingerprints` either way"
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy of the tree: building in place would leave files that the next wheel picks up."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("harness", "methods", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_module_and_config_and_nothing_generic(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"harness", "wsss_methods"}
    expected = {name.replace(".", "/") for name in modules()}
    assert {
        name.removesuffix(".py").removesuffix("/__init__") for name in names if name.endswith(".py")
    } == expected | {"harness/configs"}
    configs = {
        str(path.relative_to(ROOT / "configs"))
        for path in (ROOT / "configs").rglob("*")
        if path.suffix in (".yaml", ".txt")
    }
    assert {name.removeprefix("harness/configs/") for name in names if name.endswith((".yaml", ".txt"))} == configs
    assert "harness/py.typed" in names
    assert {f"harness/report/page.{kind}" for kind in ("html.j2", "css", "js")} <= names


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """In an environment of its own that borrows only the dependencies of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=60)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    wheel.extractall(site)
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "borrowed.pth").write_text(borrowed + "\n")
    python = tmp_path / "env" / "bin" / "python"
    probe = "import harness, wsss_methods; print(harness.__file__, wsss_methods.__file__)"
    found = subprocess.run([python, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.count(str(site)) == 2
    command = [python, "-c", "from harness.cli import main; main()", "run", "--methods", "vitpcm,cam", *TINY]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "results" / "records").is_dir()
