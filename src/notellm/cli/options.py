"""Command-line options made from an options dataclass: one option a field, with its help and default.

    @commands.command()
    @with_options(RecallOptions)
    def train(folder: ..., options: RecallOptions) -> None: ...

The command receives the dataclass in ``options``.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, TypeAlias

import typer

from notellm.options import annotation, choices, descriptions

Command: TypeAlias = Callable[..., None]


def with_options(kind: type, *, parameter: str = "options") -> Callable[[Command], Command]:
    """Replace a parameter of a command by one command-line option for each field of a dataclass.

    Args:
        kind: the dataclass; fields that :func:`notellm.options.option` did not make are left out.
        parameter: the parameter of the command that receives the dataclass.
    """
    added = _parameters(kind)

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)

        @wraps(command)
        def called(**values: Any) -> None:
            chosen = {name: _plain(values.pop(name)) for name in added}
            command(**values, **{parameter: kind(**chosen)})

        parts: list[inspect.Parameter] = []
        for name, each in own.parameters.items():
            parts += added.values() if name == parameter else [each]
        keyword = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in parts]
        called.__signature__ = own.replace(parameters=keyword)  # type: ignore[attr-defined]
        called.__annotations__ = {part.name: part.annotation for part in keyword} | {"return": None}
        return called

    return decorate


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The parameters for the fields of a dataclass: its own fields first, then those of its bases."""
    help_of = descriptions(kind)
    own = list(vars(kind).get("__annotations__", ()))
    offered = [each for each in fields(kind) if "least" in each.metadata]
    offered.sort(key=lambda each: own.index(each.name) if each.name in own else len(own))
    result = {}
    for each in offered:
        flag = each.metadata["flag"] or (
            f"--{each.name.replace('_', '-')}" if annotation(kind, each.name) is bool else None
        )
        info = typer.Option(*([flag] if flag else []), help=_sentence(help_of[each.name]))
        default = None if each.default is MISSING else each.default
        result[each.name] = inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[_offered(kind, each.name), info],
        )
    return result


def _offered(kind: type, name: str) -> Any:
    """The type by which typer offers a field: choices as an enumeration, which loads less than a Literal."""
    allowed = choices(kind, name)
    return StrEnum(name, list(zip(allowed, allowed, strict=True))) if allowed else annotation(kind, name)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _sentence(text: str) -> str:
    """A description as the help of an option: with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
