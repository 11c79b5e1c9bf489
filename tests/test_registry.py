from __future__ import annotations

from pathlib import Path

import pytest

from harness import registry as registry_module
from harness.errors import UserError
from harness.registry import CODE_KINDS, Registry
from harness.source_hash import code_of, source_hash
from harness.spec import refiner_config

PLUGIN = '''
from harness import Method

class Mine(Method):
    """My method."""

    name = "mine"
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_the_syntax_tree_lists_what_an_import_finds() -> None:
    registry = Registry()
    for kind in CODE_KINDS:
        for entry in registry.entries(kind):
            loaded = registry.load(kind, entry.name)
            assert loaded.name == entry.name
            assert (loaded.__doc__ or "").strip().startswith(entry.summary)
            assert entry.summary


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown method 'vitpmc': did you mean 'vitpcm'\?"):
        Registry().entry("method", "vitpmc")


def test_globs_select_in_order_without_repeats() -> None:
    chosen = Registry().select("method", ["vitpcm", "sanity-*", "vitpcm"])
    assert chosen == ["vitpcm", "sanity-background", "sanity-labels", "sanity-oracle", "sanity-random"]


def test_a_plugin_file_is_found_and_its_source_is_its_version(plugin: Path) -> None:
    registry = Registry([str(plugin)])
    assert registry.load("method", "mine").name == "mine"
    before = registry.source_version("method", "mine")
    assert source_hash(plugin) == before
    plugin.write_text(PLUGIN + "X = 1\n")
    assert source_hash(plugin) != before


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("class Mine", "# a comment\n\nclass Mine", True),
        ('"""My method."""', '"""Another text,\n\n    longer."""', True),
        ('    name = "mine"\n', '    name = "mine"  # its name\n', True),
        ('"mine"\n', '"mine"\n    prompt = """a\n\n# photo"""\n', False),
        ('"mine"\n', '"mine"\n    prompt = "a"\n', False),
        ('    name = "mine"\n', '    if True:\n        name = "mine"\n', False),
    ],
)
def test_a_version_is_of_the_code_and_not_of_its_words(plugin: Path, old: str, new: str, same: bool) -> None:
    before = source_hash(plugin)
    assert old in PLUGIN
    plugin.write_text(PLUGIN.replace(old, new))
    assert (source_hash(plugin) == before) is same


@pytest.mark.parametrize(("name", "counts"), [
    ("data/names.json", True), ("inner.so", True), ("README.md", False), ("__pycache__/a.pyc", False), (".swp", False),
])  # fmt: skip
def test_the_version_of_a_package_counts_all_that_is_shipped_in_it(tmp_path: Path, name: str, counts: bool) -> None:
    (tmp_path / "__init__.py").write_text(PLUGIN)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1")
    before = source_hash(tmp_path / "__init__.py")
    (tmp_path / name).write_text("2")
    assert (source_hash(tmp_path / "__init__.py") != before) is counts


def test_code_with_results_keeps_the_version_that_they_name() -> None:
    registry = Registry()
    assert registry.source_version("method", "sanity-oracle") == "431d1be711bd7e3a"
    assert registry.source_version("refiner", "crf") == "ef678281cc62b970"


def test_the_version_of_a_plugin_counts_the_plugins_that_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parents_of_mine.py").write_text(PLUGIN)
    (tmp_path / "child.py").write_text("from parents_of_mine import Mine\nclass Child(Mine):\n    name = 'child'\n")
    monkeypatch.syspath_prepend(tmp_path)

    def version() -> str:
        return Registry([str(tmp_path / "child.py")]).source_version("method", "child")

    before = version()
    (tmp_path / "parents_of_mine.py").write_text(PLUGIN + "    background = True\n")
    after = version()
    assert after != before
    own = "from wsss_methods.cam import CAM\nclass Own(CAM):\n    name = 'own'\n"
    (tmp_path / "own.py").write_text(own)
    assert Registry([str(tmp_path / "own.py")]).source_version("method", "own") != source_hash(tmp_path / "own.py")
    (tmp_path / "pinned.py").write_text(own.replace("own", "pinned") + "    version = '3'\n")
    assert Registry([str(tmp_path / "pinned.py")]).source_version("method", "pinned") == "3"


def test_a_plugin_package_is_hashed_as_a_whole(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from .inner import *\nfrom harness import Method\n" + PLUGIN.replace("mine", "packed")
    )
    (package / "inner.py").write_text("x = 1\n")
    registry = Registry([str(package)])
    before = registry.source_version("method", "packed")
    (package / "inner.py").write_text("x = 2\n")
    assert source_hash(package / "__init__.py") != before


def test_the_version_of_an_installed_plugin_is_that_of_its_whole_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "own.py").write_text("from elsewhere.inner import X\n" + PLUGIN)
    (package / "inner.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = Registry(["elsewhere.own"]).source_version("method", "mine")
    (package / "inner.py").write_text("X = 2\n")
    assert Registry(["elsewhere.own"]).source_version("method", "mine") != before


def test_a_version_can_be_pinned(plugin: Path) -> None:
    plugin.write_text(PLUGIN + '    version = "2"\n')
    assert Registry([str(plugin)]).source_version("method", "mine") == "2"


def test_another_version_is_another_key(plugin: Path, toy: Path) -> None:
    from harness.inputs import Inputs
    from harness.run.plan import plan_cells
    from harness.spec import Grid, expand

    def key(text: str, name: str) -> str:
        path = plugin.with_name(name) / "mine.py"
        path.parent.mkdir()
        path.write_text(PLUGIN + text)
        registry = Registry([str(path)])
        cells = expand([Grid(methods=("mine",), backbones=("timm:test_vit",), limit=2)], registry)
        return plan_cells(cells, Inputs(registry, plugin.parent / "results", None)).cells[0].key

    plain, edited = key("", "a"), key("    background = True\n", "b")
    assert plain != edited
    pinned = '    version = "1"\n'
    assert key(pinned, "c") == key(pinned + "    cite = 'the same numbers'\n", "d") != plain


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_named_whatever_is_asked_for(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    registry = Registry([str(path)])
    (entry,) = [entry for entry in registry.entries("method") if entry.broken]
    assert reason in entry.broken
    assert "\n" not in entry.broken
    for name in ("cam", "bad"):
        with pytest.raises(UserError, match=rf"^--plugins {path}: does not import: ") as error:
            registry.load("method", name)
        assert reason in str(error.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("lost/nofile.py", "there is no such file or folder"),
        ("nofile.py", "there is no such file or folder"),
        ("no_such_module_at_all", "does not import: ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("protocols/lost.yaml", "cannot read lost.yaml: No such file or directory"),
    ],
)
def test_a_plugin_that_is_not_there_is_named_whatever_is_asked_for(given: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        Registry([given]).select("method", ["cam"])
    assert str(error.value) == f"--plugins {given}: {reason}"


def test_a_file_without_a_plugin_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match=rf"--plugins {path}: defines no plugin"):
        Registry([str(path)]).load("method", "cam")


def test_an_endless_import_is_interrupted_even_where_it_catches_exceptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endless.py"
    path.write_text(
        "import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass\nwhile True:\n    time.sleep(60)\n"
    )
    monkeypatch.setattr(registry_module, "IMPORT_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"does not import: TimeoutError: it took longer than 0\.2 s"):
        Registry([str(path)]).load("method", "cam")


_METHOD, _REFINER, _DATASET = (
    f"from harness import {base}\nclass Mine({base}):\n    name = '{{}}'\n" for base in CODE_KINDS.values()
)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("again.py", _METHOD.format("cam"), r"method 'cam' of .*again\.py: the name is taken by built-in \(cam\.py\)"),
        ("again.py", _REFINER.format("crf"), r"refiner 'crf' of .*: the name is taken by built-in \(crf\.py\)"),
        ("again.py", _REFINER.format("protocol"), "refiner 'protocol' of .*: the name is taken by the harness"),
        ("again.py", _REFINER.format("none"), "refiner 'none' of .*: the name is taken by the harness"),
        ("again.py", _DATASET.format("toy"), r"dataset 'toy' of .*: the name is taken by built-in \(toy\.py\)"),
        ("again.py", _METHOD.format("one"), r"method 'one' of .*again\.py: the name is taken by .*one\.py"),
        ("again.py", _METHOD.format("two") + "class Other(Mine):\n    name = 'two'\n", "'two' of .*: the name is"),
        ("protocols/strict.yaml", "background: fixed:0.9\n", r"protocol 'strict' of .*: the name is taken by built-in"),
        ("experiments/table1-animals.yaml", "grids: []\n", "experiment 'table1-animals' of .*: the name is taken by"),
        ("deeplab/toy.yaml", "summary: x\n", "deeplab 'toy' of .*: the name is taken by built-in"),
        ("crf/irn.yaml", "summary: x\n", "crf 'irn' of .*: the name is taken by built-in"),
    ],
)  # fmt: skip
def test_a_taken_name_is_refused_with_what_has_it(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / "one.py").write_text(_METHOD.format("one"))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    registry = Registry([str(tmp_path / "one.py"), str(path)])
    for ask in (lambda: registry.load("method", "sanity-random"), lambda: registry.entries("method")):
        with pytest.raises(UserError, match=message):
            ask()


def test_the_same_plugin_twice_is_one(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plugin.parent)
    assert Registry([str(plugin), "mine.py", "mine.py"]).names("method").count("mine") == 1


def test_a_yaml_file_is_of_the_kind_that_its_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "protocols"
    folder.mkdir()
    (folder / "mine.yaml").write_text("summary: ours\nflip: max\n")
    (folder / "bad.yaml").write_text("summary: [\n")
    registry = Registry([str(folder / "mine.yaml"), str(folder / "bad.yaml")])
    assert Registry([str(folder / "mine.yaml")]).load("protocol", "mine") == {"summary": "ours", "flip": "max"}
    (bad,) = registry.entries("protocol", "bad")
    assert bad.broken.startswith("bad.yaml:2: not YAML")
    with pytest.raises(UserError, match=r"--plugins .*bad\.yaml: bad\.yaml:2: not YAML"):
        registry.entry("protocol", "strict")
    (tmp_path / "lost.yaml").write_text("summary: ours\n")
    with pytest.raises(UserError, match="folder named backbones or protocols"):
        Registry([str(tmp_path / "lost.yaml")]).names("protocol")


def test_a_refiner_from_outside_has_presets_too_in_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "blur.py").write_text(
        "from harness import Refiner, RefinerParams\n"
        "class BlurParams(RefinerParams):\n    width: int\n"
        "class Blur(Refiner):\n    name = 'blur'\n    Params = BlurParams\n"
    )
    (tmp_path / "blur").mkdir()
    (tmp_path / "blur" / "blur.yaml").write_text("summary: theirs\nwidth: 3\n")
    presets = [str(tmp_path / "blur" / "blur.yaml"), str(tmp_path / "blur.py")]
    registry, without = Registry(presets), Registry(presets[1:])
    config = refiner_config(registry, "blur:blur")
    assert config is not None
    assert (config["name"], config["params"]) == ("blur", {"width": 3})
    with pytest.raises(UserError, match="refiner 'blur' needs a preset: blur:blur"):
        refiner_config(registry, "blur")
    with pytest.raises(UserError, match="refiner 'blur' needs a preset: a YAML file in a folder named blur"):
        refiner_config(without, "blur")
    with pytest.raises(UserError, match="unknown blur 'bl': known: none"):
        refiner_config(without, "blur:bl")


def test_a_missing_plugin_is_broken(tmp_path: Path) -> None:
    assert Registry(["no_such_module_at_all"]).entries("method", "no_such*")[0].broken


def test_the_hash_of_a_source_is_the_same_on_every_python() -> None:
    """Python 3.12 takes f-strings apart and numbers tokens anew; this is what 3.11 makes of it."""
    source = b'def f(x):\n    """Says x."""\n    return f"{x!r:>{8}} {f\'{x}\'}"  # nested\n'
    assert code_of(source).decode().split("\0") == [
        "63 utf-8", "1 def", "1 f", "54 (", "1 x", "54 )", "54 :", "4 \n", "5     ", "1 return",
        """3 f"{x!r:>{8}} {f'{x}'}\"""", "4 \n", "6 ", "0 ",
    ]  # fmt: skip
