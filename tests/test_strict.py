from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.protocol import Protocol
from harness.spec import Experiment
from harness.strict import canonical, digest, parse, read_yaml


def test_canonical_json_has_one_text_per_value() -> None:
    assert canonical({"b": 1, "a": (1.0, "ü")}) == '{"a":[1.0,"ü"],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_an_unknown_key_names_file_line_and_closest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("summary: x\nrun:\n  - methods: cam\n    backbons: vit_s16\n")
    with pytest.raises(UserError, match=r"mine\.yaml:4: unknown key 'backbons': did you mean 'backbones'\?"):
        parse(Experiment, read_yaml(path), source=path)


def test_a_wrong_type_names_key_and_value() -> None:
    with pytest.raises(UserError, match=r"--set protocol: size: .*pixels from 16 up.*\(got 'big'\)"):
        parse(Protocol, {"name": "x", "size": "big"}, where="--set protocol")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("background", "fixed:2"),
        ("background", "fixed:x"),
        ("background", "otsu"),
        ("normalisation", "l2"),
        ("precision", "fp8"),
    ],
)
def test_a_protocol_rule_outside_its_range_is_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=key):
        parse(Protocol, {"name": "x", key: value})


def test_rules_have_one_spelling() -> None:
    assert str(Protocol(name="x", background="fixed:0.40").background) == "fixed:0.4"


def test_what_is_not_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(UserError, match=r"bad\.yaml:3: not YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(UserError, match="expected a mapping"):
        read_yaml(path)
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")
