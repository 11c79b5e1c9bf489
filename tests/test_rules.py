import pytest
from pydantic import ValidationError

from harness.protocol import ClassGating, Protocol
from harness.rules import Rule, Rules


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("model", Rule("model")),
        ("fixed:0.40", Rule("fixed", 0.4)),
        ("power:4", Rule("power", 4.0)),
        ("swept_on:2012", Rule("swept_on", "2012")),
    ],
)
def test_a_background_is_a_value_and_is_written_as_it_was(text: str, rule: Rule) -> None:
    protocol = Protocol(name="p", background=text)
    assert protocol.background == rule
    assert Rule.parse(protocol.model_dump(mode="json")["background"]) == rule


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:", "fixed:1.1", "fixed:nan", "model:1", "swept_on:", "gt", 0.4, None]
)
def test_what_is_no_background_is_refused_with_every_form(text: object) -> None:
    with pytest.raises(ValidationError, match="expected method or model or fixed:0..1 or power:0..100 or swept_on:…"):
        Protocol(name="p", background=text)


def test_a_patience_is_a_number_of_epochs() -> None:
    assert Protocol(name="p", checkpoint="val_pixels:60").checkpoint == Rule("val_pixels", 60.0)
    assert str(Protocol(name="p", checkpoint="val_pixels:60").checkpoint) == "val_pixels:60"
    with pytest.raises(ValidationError, match="expected last or val_image_labels"):
        Protocol(name="p", checkpoint="val_pixels:0")


def test_rules_survive_their_json() -> None:
    rules = Rules(ClassGating().held_out, "max", "fixed:0.4")
    assert rules.gating == Rule("predicted", 0.5)
    assert rules.background.value == 0.4
