"""Columns that a table has and that are read as nothing, where their names say that they may matter."""

import re
import shlex
from collections.abc import Collection

from notellm.data.problems import Report

_CLICKS = {
    "timestamp": r"time|date|epoch|(?:^|_)ts$|_at$|^at$|^when$|^day$",
    "event": r"event|action|behaviou?r|activity|interaction|^type$",
    "rating": r"rating|stars?$|score|grade|like|thumb|vote|recommend|preference|feedback|label|target|clicked"
    r"|is_?click|^click$|weight|confidence|watch|dwell|duration|reaction|^value$|purchased?$|plays?$"
    r"|(?:^|_)counts?$",
}
_NOTES = {
    "title": r"^name$|headline|subject",
    "content": r"content|description|^text|body|abstract|summary|overview|^plot",
    "topics": r"topic|tags?$|genres?$|keywords?$",
    "category": r"categor|^genres?$|^section",
    "published_at": r"publi(?!sher)|date|time|_at$|^year$|created|released?",
}
_SHOWN = 5


def near(ours: str, others: Collection[str], *, clicks: bool) -> list[str]:
    """Return the columns whose names say that they may be one of ours.

    Args:
        ours: our name of the column.
        others: columns of the file that are read as nothing.
        clicks: whether the table is a click log.
    """
    same = [name for name in others if name.lower() == ours]  # JSON has names in other letters
    form = (_CLICKS if clicks else _NOTES).get(ours)
    found = [] if form is None else [name for name in others if re.search(form, _snake(name))]
    return list(dict.fromkeys(same + found))[:_SHOWN]


def report_others(
    others: Collection[str], read: Collection[str], where: str, rows: int, report: Report
) -> None:
    """Report columns of a log that say which rows count, and are not read.

    Args:
        others: columns of the file that are read as nothing.
        read: our names of the columns that are read.
        where: name of the table in the report.
        rows: number of rows.
        report: receives one row for ratings, and one for events.
    """
    for ours in ("event", "rating"):
        found = [] if ours in read else near(ours, others, clicks=True)
        if found:
            option = f"--clicks-column {shlex.quote(f'{ours}={found[0]}')}"
            more = " --min-rating N says which rows do" if ours == "rating" else " reads it"
            action = f"not read: every row counts; {option}{more}"
            report.add(f"column that may be the {ours}", where, rows, ", ".join(found), action)


def _snake(name: str) -> str:
    """Return a name in small letters, without what is in brackets: UserRating [1-5] is user_rating."""
    bare = re.sub(r"\s*[\[(].*?[\])]", "", name)
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", bare)).strip("_").lower()
