"""Command-line options made from an options dataclass: one option for each field.

    @commands.command()
    @with_options(RecallOptions)
    def train(folder: ..., options: RecallOptions) -> None: ...

The command receives the dataclass in ``options``. Defaults are those of the fields, help texts are their
descriptions in the docstring.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
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
        signature = inspect.signature(command)

        @wraps(command)
        def called(**values: Any) -> None:
            chosen = {name: _plain(values.pop(name)) for name in added}
            command(**values, **{parameter: kind(**chosen)})

        parameters: list[inspect.Parameter] = []
        for name, each in signature.parameters.items():
            parameters += added.values() if name == parameter else [each]
        keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        called.__signature__ = signature.replace(parameters=keyword)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in keyword} | {"return": None}
        return called

    return decorate


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters for the fields of a dataclass, with the fields of its bases last."""
    help_of = descriptions(kind)
    declared = list(vars(kind).get("__annotations__", ()))
    offered = [each for each in fields(kind) if "least" in each.metadata]
    offered.sort(key=lambda each: declared.index(each.name) if each.name in declared else len(declared))
    result = {}
    for each in offered:
        flag = each.metadata["flag"] or (
            f"--{each.name.replace('_', '-')}" if annotation(kind, each.name) is bool else None
        )
        info = typer.Option(*([flag] if flag else []), help=_sentence(help_of[each.name]))
        result[each.name] = inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=Annotated[_offered(kind, each.name), info],
        )
    return result


def _offered(kind: type, name: str) -> Any:
    """Return the type that typer offers for a field: choices as an enumeration, else the annotation."""
    allowed = choices(kind, name)
    return StrEnum(name, list(zip(allowed, allowed, strict=True))) if allowed else annotation(kind, name)


def _plain(value: Any) -> Any:
    """Return the value of a choice instead of its enumeration member."""
    return value.value if isinstance(value, StrEnum) else value


def _sentence(text: str) -> str:
    """Return a description with a capital letter at its beginning, as the help of an option."""
    return text[:1].upper() + text[1:]
