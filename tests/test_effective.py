from __future__ import annotations

import pytest

from harness.effective import effective_background
from harness.registry import Registry
from harness.spec import Grid, expand

REGISTRY = Registry()


@pytest.mark.parametrize(
    ("method", "family", "protocol", "expected"),
    [
        ("cam", "cnn", "strict", "fixed:0.15"),
        ("cam", "vit", "strict", "fixed:0.4"),
        ("recam", "cnn", "strict", "fixed:0.21"),
        ("cam", "cnn", "strict-1", "fixed:0.4"),
        ("cam", "cnn", "psa", "fixed:0.2"),
        ("vitpcm", "vit", "strict", "model"),
        ("sanity-oracle", "", "strict", "given"),
    ],
)
def test_the_background_is_the_methods_where_the_protocol_leaves_it_to_it(
    method: str, family: str, protocol: str, expected: str
) -> None:
    grid = Grid(methods=method, backbones="timm:test_vit", weights="random", protocols=protocol)
    (cell,) = expand([grid], REGISTRY)
    method_class = REGISTRY.load("method", method)
    own = method_class(method_class.Params(**cell.spec.params))
    assert str(effective_background(own, cell.spec.protocol, family)) == expected
