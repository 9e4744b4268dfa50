"""An option is one field: its range, its description and its values are read from there."""

from dataclasses import dataclass
from typing import Literal

import pytest

from notellm.errors import ConfigError
from notellm.options import (
    check,
    check_known,
    choices,
    descriptions,
    filled,
    option,
    problems_of,
    unknown_names,
    values_of,
)
from notellm.rank.codes.options import CodeChoice
from notellm.rank.config import BinLLMConfig, RankOptions, TuningOptions
from notellm.recall.config import LossOptions, NoteLLMConfig, RecallOptions


@dataclass
class Base:
    """Shared.

    Attributes:
        rate: how fast, in steps
            a second.
    """

    rate: float | None = option(None, above=0)


@dataclass
class Sample(Base):
    """A sample.

    Attributes:
        share: a share.
        size: how many.
        kind: which kind: one of two.

    Raises:
        Nothing: this is no field.
    """

    share: float = option(0.5, least=0, most=1)
    size: int = option(3, least=1)
    kind: Literal["a", "b"] | None = option("a")
    free: int = -1


def test_every_problem_is_named_at_once():
    found = Sample(rate=0.0, share=2.0, size=0, kind="c")  # type: ignore[arg-type]
    assert problems_of(found) == [
        "rate is 0.0; it must be above 0",
        "share is 2.0; it must lie in 0 to 1",
        "size is 0; it must be at least 1",
        "kind is 'c'; it must be one of a, b",
    ]
    with pytest.raises(ConfigError, match=r"rate is 0\.0.*kind is 'c'.*; and this"):
        check(found, "and this")


@pytest.mark.parametrize(
    "values", [{}, {"rate": 1e-9}, {"share": 0}, {"share": 1}, {"size": 1}, {"kind": None}]
)
def test_what_is_allowed_is_no_problem(values):
    check(Sample(**values))


def test_nan_is_in_no_range():
    nan = float("nan")
    assert len(problems_of(Sample(rate=nan, share=nan))) == 2


@dataclass
class Bounded:
    """Every way to declare a range.

    Attributes:
        top: a bound from above.
        open: an interval without its lower end.
        wide: any number above 0.
    """

    top: float = option(1.0, most=1)
    open: float = option(1.0, above=0, most=1)
    wide: float = option(1.0, above=0)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("top", 1.5, "be at most 1"),
        ("open", 0, "be above 0 and at most 1"),
        ("open", 1.5, "be above 0 and at most 1"),
        ("open", float("nan"), "be above 0 and at most 1"),
        ("wide", "3", "be a number"),
        ("top", [1], "be a number"),
    ],
)
def test_every_bound_holds_alone_and_with_others(name, value, rule):
    assert problems_of(Bounded(**{name: value})) == [f"{name} is {value!r}; it must {rule}"]


@pytest.mark.parametrize(("name", "value"), [("top", -9), ("top", 1), ("open", 1), ("wide", 7)])
def test_what_lies_in_the_range_is_no_problem(name, value):
    check(Bounded(**{name: value}))


def test_fields_that_are_no_options_are_not_checked():
    assert problems_of(Sample(free=-100)) == []


def test_descriptions_come_from_the_class_and_its_bases():
    assert descriptions(Sample) == {
        "rate": "how fast, in steps a second.",
        "share": "a share.",
        "size": "how many.",
        "kind": "which kind: one of two.",
    }


@pytest.mark.parametrize("kind", [RecallOptions, RankOptions])
def test_every_option_of_a_run_is_described_and_its_defaults_are_allowed(kind):
    offered = [name for name, each in kind.__dataclass_fields__.items() if "least" in each.metadata]
    assert len(offered) > 15
    assert set(offered) <= set(descriptions(kind))
    assert kind().resolved() == kind().resolved().resolved()
    assert kind(backbone="a/name").resolved() != kind().resolved()


def test_choices_of_a_literal_also_beside_none():
    assert choices(Sample, "kind") == ("a", "b")
    assert choices(Sample, "size") == ()


def test_values_of_the_shared_fields_alone():
    assert values_of(Sample(rate=2.0, size=7), Base) == {"rate": 2.0}
    assert values_of(Base(rate=2.0), Sample) == {"rate": 2.0}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (RecallOptions(), (NoteLLMConfig, LossOptions)),
        (RankOptions(), (BinLLMConfig, TuningOptions, CodeChoice)),
    ],
)
def test_a_run_hands_on_every_option_of_its_parts(options, parts):
    derived = {"topics_tokens", "max_length", "typical_topics", "categories"}  # of the model, not of a run
    for part in parts:
        assert set(values_of(options, part)) == set(part.__dataclass_fields__) - derived


def test_unknown_names_are_refused_with_the_known_ones():
    assert unknown_names({"size": 1, "sise": 2}, Sample) == ["sise"]
    with pytest.raises(
        ConfigError, match="unknown option 'sise'; the sample knows rate, share, size, kind, free"
    ):
        check_known({"sise": 2}, Sample, "the sample")


def test_an_option_without_a_value_is_told():
    assert filled(0) == 0
    with pytest.raises(ConfigError, match="call resolved"):
        filled(None)
