"""Wordings of prompts as data: JSON files in a package's folder ``templates``, or one's own."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from notellm.errors import ConfigError


def template_names(package: str) -> list[str]:
    """Names of the templates that come with a package of notellm."""
    folder = files(package).joinpath("templates")
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir())


def read_template(package: str, name_or_path: str | Path) -> Any:
    """The JSON value of a template, by its name or from a file.

    Raises:
        ConfigError: there is none.
        DataError: the file is no JSON.
    """
    names = template_names(package)
    if str(name_or_path) in names:
        resource = files(package).joinpath("templates", f"{name_or_path}.json")
        return json.loads(resource.read_text(encoding="utf-8"))
    if not Path(name_or_path).is_file():
        raise ConfigError(
            f"no template {str(name_or_path)!r}: give one of {', '.join(names)} "
            "or the path of a template's JSON file"
        )
    from notellm.files import read_json  # noqa: PLC0415 - pyarrow; the command line checks names of templates

    return read_json(name_or_path)
