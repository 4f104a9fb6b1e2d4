import dataclasses
from typing import Literal

import pytest
from ml_collections import ConfigDict

from instruct_jax.errors import InputError
from instruct_jax.stages.settings import section


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int
    rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float
    steps: int
    kind: Literal["cosine", "constant"]
    inner: Inner
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    flag: bool = False
    weights: dict[str, float] | None = None


GOOD = {"rate": 1, "steps": 3, "kind": "cosine", "inner": {"depth": 2, "rate": None}}


def build(**changes):
    tree = {**GOOD, **changes}
    return section(ConfigDict({"a": {"b": {k: v for k, v in tree.items() if v != "absent"}}}), "a.b", Outer)


def test_a_section_becomes_its_dataclass():
    built = build(sizes=(1, 2), pair=("b", 2), flag=True, weights={"x": 1})
    assert built == Outer(1.0, 3, "cosine", Inner(2), (1, 2), ("b", 2.0), True, {"x": 1.0})
    assert type(built.rate) is float and type(built.weights["x"]) is float
    assert build().weights is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stps": 3}, "config.a.b.stps: no such field (did you mean steps?)"),
        ({"inner": {"depht": 2}}, "config.a.b.inner.depht: no such field (did you mean depth?)"),
        ({"inner": {}}, "config.a.b.inner lacks config.a.b.inner.depth"),
        ({"steps": "absent", "rate": "absent"}, "lacks config.a.b.rate, config.a.b.steps"),
        ({"steps": 3.0}, "config.a.b.steps must be int, got 3.0 (float)"),
        ({"steps": True}, "config.a.b.steps must be int, got True (bool)"),
        ({"rate": False}, "config.a.b.rate must be float, got False (bool)"),
        ({"rate": None}, "config.a.b.rate must be float, got None"),
        ({"flag": 1}, "config.a.b.flag must be bool, got 1 (int)"),
        ({"inner": {"depth": 2, "rate": "x"}}, "config.a.b.inner.rate must be float, got 'x' (str)"),
        ({"inner": 3}, "config.a.b.inner must be a section"),
        ({"sizes": (1, 2.5)}, "config.a.b.sizes[1] must be int, got 2.5"),
        ({"pair": ("b",)}, "config.a.b.pair takes 2 values, got 1"),
        ({"kind": "cosin"}, "config.a.b.kind is 'cosin' (did you mean cosine?)"),
        ({"weights": {"x": "y"}}, "config.a.b.weights.x must be float"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(changes, message):
    with pytest.raises(InputError) as caught:
        build(**changes)
    assert message in str(caught.value)


def test_a_missing_section_is_named_with_its_nearest():
    with pytest.raises(InputError, match="config.a has no section 'c'"):
        section(ConfigDict({"a": {"b": {}}}), "a.c", Outer)
    with pytest.raises(InputError, match=r"config has no section 'optimzer' \(did you mean optimizer\?\)"):
        section(ConfigDict({"optimizer": {}}), "optimzer", Outer)
