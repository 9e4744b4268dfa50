"""Options as dataclasses: a field holds an option's default, a line of the docstring says what it means.

The class declares ``top: int = option(10, least=1)`` and documents ``top`` under "Attributes". Trainers,
jobs, the command line and the service read the same fields, so a new option is one field and its use.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import field, fields
from functools import cache
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from notellm.errors import ConfigError

Value = TypeVar("Value")

_ENTRY = re.compile(r"(\w+): (.*)")


def option(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    flag: str | None = None,
) -> Any:
    """A field of an options dataclass.

    Args:
        default: its default value; None where the default depends on other options.
        least: smallest allowed value.
        above: the value must be larger than this.
        most: largest allowed value.
        flag: name on the command line where it is not the field's, such as "--lora/--full".
    """
    return field(default=default, metadata={"least": least, "above": above, "most": most, "flag": flag})


def problems_of(options: Any) -> list[str]:
    """Everything wrong with the values of an options dataclass, one sentence a problem.

    Fields made by :func:`option` are checked: a value must be one of the choices of its Literal type and lie
    in the declared range. None is not checked, since it means a default.
    """
    problems = []
    for each in fields(options):
        value = getattr(options, each.name)
        if value is None or "least" not in each.metadata:
            continue
        if allowed := choices(type(options), each.name):
            wrong = value not in allowed
            rule = f"be one of {', '.join(map(str, allowed))}"
        else:
            wrong, rule = _out_of_range(value, each.metadata)
        if wrong:
            problems.append(f"{each.name} is {value!r}; it must {rule}")
    return problems


def check(options: Any, *more: str) -> None:
    """Raise one error that names every problem.

    Args:
        options: an instance of an options dataclass.
        more: further problems that only its class can find.

    Raises:
        ConfigError: if there is a problem.
    """
    if problems := [*problems_of(options), *more]:
        raise ConfigError("; ".join(problems))


def check_known(names: Mapping[str, Any], kind: type, owner: str) -> None:
    """Refuse options that are no fields of a dataclass.

    Raises:
        ConfigError: if one is not.
    """
    if unknown := unknown_names(names, kind):
        allowed = ", ".join(each.name for each in fields(kind))
        raise ConfigError(f"unknown option {unknown[0]!r}; {owner} knows {allowed}")


def unknown_names(names: Mapping[str, Any], kind: type) -> list[str]:
    """The names that are no fields of a dataclass, sorted."""
    return sorted(set(names) - {each.name for each in fields(kind)})


def values_of(options: Any, kind: type) -> dict[str, Any]:
    """The values of the fields that an options dataclass shares with another one, by name."""
    names = {each.name for each in fields(kind)}
    return {each.name: getattr(options, each.name) for each in fields(options) if each.name in names}


def filled(value: Value | None) -> Value:
    """The value of an option whose None has been replaced by a default.

    Raises:
        ConfigError: if it is still None.
    """
    if value is None:
        raise ConfigError("an option has no value yet; call resolved() before its values are used")
    return value


@cache
def descriptions(kind: type) -> Mapping[str, str]:
    """What each field means, from the "Attributes" of the docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        _, _, section = cleandoc(each.__dict__.get("__doc__") or "").partition("\nAttributes:\n")
        name = ""
        for line in section.split("\n"):
            if line and not line.startswith(" "):
                break  # the next section
            if line.startswith("     ") and name:
                found[name] += " " + line.strip()
            elif entry := _ENTRY.fullmatch(line.strip()):
                name = entry[1]
                found[name] = entry[2]
    return found


def annotation(kind: type, name: str) -> Any:
    """The type of a field, from the class of the dataclass or its bases that declares it."""
    return next(
        each.__annotations__[name] for each in kind.__mro__ if name in vars(each).get("__annotations__", ())
    )


def choices(kind: type, name: str) -> tuple[Any, ...]:
    """The values that a field of a Literal type (or of one or None) may have; empty for other types."""
    type_ = annotation(kind, name)
    if get_origin(type_) in (Union, UnionType):
        type_ = next(part for part in get_args(type_) if part is not NoneType)
    return get_args(type_) if get_origin(type_) is Literal else ()


def _out_of_range(value: Any, rules: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a value lies outside the declared range or is no number, and the rule in words."""
    least, above, most = rules["least"], rules["above"], rules["most"]
    if least is None and above is None and most is None:
        return False, ""
    if not isinstance(value, int | float):
        return True, "be a number"
    within = (
        (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and not math.isnan(value)
    )
    if above is None and least is not None and most is not None:
        return not within, f"lie in {least} to {most}"
    bounds = {"at least": least, "above": above, "at most": most}
    return not within, "be " + " and ".join(f"{name} {at}" for name, at in bounds.items() if at is not None)
