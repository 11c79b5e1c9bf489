from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.registry import CODE_KINDS, Registry, source_hash
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
    plugin.write_text(PLUGIN + "# changed\n")
    assert source_hash(plugin) != before


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

    plain, edited = key("", "a"), key("    # other numbers\n", "b")
    assert plain != edited
    pinned = '    version = "1"\n'
    assert key(pinned, "c") == key(pinned + "    # the same numbers\n", "d") != plain


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nothing(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    registry = Registry([str(path)])
    (entry,) = [entry for entry in registry.entries("method") if entry.broken]
    assert reason in entry.broken
    assert "\n" not in entry.broken
    assert registry.load("method", "cam").name == "cam"
    with pytest.raises(UserError, match="is broken"):
        registry.entry("method", "bad")


def test_a_taken_name_is_broken_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "again.py"
    path.write_text(PLUGIN.replace('"mine"', '"cam"'))
    registry = Registry([str(path)])
    assert registry.load("method", "cam").__module__ == "wsss_methods.cam"
    assert any("taken by built-in" in entry.broken for entry in registry.entries("method"))


def test_a_yaml_file_is_of_the_kind_that_its_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "protocols"
    folder.mkdir()
    (folder / "mine.yaml").write_text("summary: ours\nflip: max\n")
    (folder / "bad.yaml").write_text("summary: [\n")
    registry = Registry([str(folder / "mine.yaml"), str(folder / "bad.yaml")])
    assert registry.load("protocol", "mine") == {"summary": "ours", "flip": "max"}
    with pytest.raises(UserError, match=r"broken: .*bad\.yaml"):
        registry.entry("protocol", "bad")
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
