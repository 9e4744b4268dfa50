"""Wordings of prompts, as JSON files in the folder ``templates`` of a package or in a user's file."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from notellm.errors import ConfigError


def template_names(package: str) -> list[str]:
    """Return the names of the templates of a package of notellm."""
    folder = files(package).joinpath("templates")
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir())


def read_template(package: str, name_or_path: str | Path) -> Any:
    """Return the JSON value of a template.

    Args:
        package: package of notellm whose templates can be given by name.
        name_or_path: name of a template, or path of a JSON file.

    Raises:
        ConfigError: if there is neither a template of that name nor such a file.
        DataError: if the file is not valid JSON.
    """
    names = template_names(package)
    if str(name_or_path) in names:
        resource = files(package).joinpath("templates", f"{name_or_path}.json")
        return json.loads(resource.read_text(encoding="utf-8"))
    if not Path(name_or_path).is_file():
        raise ConfigError(
            f"no template {str(name_or_path)!r}: give one of {', '.join(names)} "
            "or the path of a JSON file with a template"
        )
    from notellm.files import read_json  # noqa: PLC0415 - pyarrow; the command line checks names of templates

    return read_json(name_or_path)
