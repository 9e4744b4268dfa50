"""Writing the report of an evaluation into a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notellm.artifacts.write import write_folder
from notellm.files import write_json
from notellm.record import write_record


def save_report(
    folder: str | Path,
    title: str,
    text: str,
    values: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write ``report.md``, ``results.json`` and ``record.json`` into a folder, all of them or none.

    Args:
        folder: the folder; an older report in it is replaced.
        title: title of the report.
        text: the report in Markdown.
        values: all figures as JSON values.
        record: how the report was made.
        force: replace a folder that would otherwise be kept (see ``write_folder``).

    Raises:
        StorageError: if the folder may not be replaced or cannot be written.
    """
    with write_folder(folder, "report", force=force) as new_folder:
        (new_folder / "report.md").write_text(f"# {title}\n\n{text}", encoding="utf-8")
        write_json(values, new_folder / "results.json")
        write_record(new_folder, record)
