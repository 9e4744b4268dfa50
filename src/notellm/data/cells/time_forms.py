"""Forms in which people and programs write times, other than ISO 8601 and numbers.

A date of two small numbers ("03/04/2019") may be read in two ways. :func:`read_form` returns both; the column
decides (``times.py``). Times without a zone are UTC.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from notellm.data.cells.month_names import MONTHS

#: Hours ahead of UTC. Abbreviations of several zones (BST, CST, IST, MST, PST) are left out.
_ZONES = {
    **dict.fromkeys(("z", "utc", "gmt", "ut", "wet"), 0.0),
    "est": -5.0,
    "edt": -4.0,
    "cdt": -5.0,
    "mdt": -6.0,
    "pdt": -7.0,
    "cet": 1.0,
    "west": 1.0,
    "cest": 2.0,
    "eet": 2.0,
    "eest": 3.0,
    "msk": 3.0,
    "jst": 9.0,
}
_LONGEST = 80  # characters of a time
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_MONTH = rf"(?P<month>{'|'.join(sorted(MONTHS, key=len, reverse=True))})\.?"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,12}))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?"
)
_ZONE = r"(?:\s*(?P<zone>z|[a-z]{2,4}|(?:utc|gmt)?[+-]\d{2}:?(?:\d{2})?)(?:\s*[\[(][\w/+ -]+[\])])?)?"
_TIME = rf"(?:(?:\s*,?\s+(?:at\s+)?|t){_CLOCK}{_ZONE})?"
_BASIC = (
    r"(?:[t ](?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,12}))?" + _ZONE + ")"
)

_FORMS = [
    re.compile(_WEEKDAY + date + time)
    for date, time in (
        (r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})", _TIME),
        (r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})", _BASIC),
        (r"(?P<first>\d{1,2})(?P<mark>[-/.])(?P<other>\d{1,2})(?P=mark)(?P<year>\d{4})", _TIME),
        (r"(?P<month>\d{1,2}) (?P<day>\d{1,2}), (?P<year>\d{4})", _TIME),
        (
            (
                rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|er|\.|º)?[\s-]*(?:of\s+|de\s+)?{_MONTH}[\s,-]+(?:de\s+)?"
                rf"(?P<year>\d{{4}})(?: г\.?)?"
            ),
            _TIME,
        ),
        (rf"(?P<day>\d{{1,2}})/{_MONTH}/(?P<year>\d{{4}})", rf"(?:[:\s]{_CLOCK}{_ZONE})?"),
        (rf"{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})", _TIME),
        (rf"{_MONTH}\s+(?P<day>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4}})", ""),
        (
            r"(?P<year>\d{4})\s*[年년]\s*(?P<month>\d{1,2})\s*[月월]\s*(?P<day>\d{1,2})\s*[日일]",
            rf"(?:\s*{_CLOCK})?",
        ),
        (r"(?P<year>\d{4})[-/](?P<month>\d{1,2})", ""),
        (rf"{_MONTH},?\s+(?P<year>\d{{4}})", ""),
    )
]


@dataclass(frozen=True)
class Form:
    """A time in one of the forms.

    Attributes:
        day_first: microseconds since 1970 if the day comes first; the only reading unless ``ambiguous``.
        month_first: microseconds since 1970 if the month comes first; None if that is no date.
        ambiguous: whether the form has two readings, even if one of them is no date.
        month_only: whether the day is missing; it is taken as the first of the month.
        family: the mark between the numbers of an ambiguous form, and whether it has AM or PM. Times of one
            family come from one program, which writes either the day or the month first.
    """

    day_first: int | None
    month_first: int | None = None
    ambiguous: bool = False
    month_only: bool = False
    family: str = ""


def read_form(text: str) -> Form | None:
    """Return a time in one of the forms; None if it is in none, or is no time in the calendar."""
    text = " ".join(text.lower().split())
    if len(text) > _LONGEST:
        return None
    for form in _FORMS:
        if match := form.fullmatch(text):
            break
    else:
        return None
    part = match.groupdict()
    year = int(part["year"])
    if "first" in part:
        first, other = int(part["first"]), int(part["other"])
        day_first, month_first = _micro(part, year, other, first), _micro(part, year, first, other)
        if day_first is None and month_first is None:
            return None
        family = part["mark"] + (" with AM or PM" if part["half"] else "")
        return Form(day_first, month_first, ambiguous=True, family=family)
    name = part["month"]
    month = int(name) if name.isdigit() else MONTHS[name]
    micro = _micro(part, year, month, int(part.get("day") or 1))
    return None if micro is None else Form(micro, month_only="day" not in part)


def _micro(part: dict[str, str | None], year: int, month: int, day: int) -> int | None:
    """Return microseconds since 1970; None if there is no such time."""
    hour, minute, second = (int(part.get(name) or 0) for name in ("hour", "minute", "second"))
    if half := part.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" else 0)
    next_day = hour == 24 and not minute and not second  # ISO 8601 allows 24:00
    offset = _offset(part.get("zone"))
    if offset is None:
        return None
    try:
        time = datetime(year, month, day, 0 if next_day else hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    if second > 60:
        return None
    time += timedelta(days=int(next_day)) - offset
    fraction = int(((part.get("fraction") or "") + "000000")[:6])
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + fraction


def _offset(zone: str | None) -> timedelta | None:
    """Return how far a zone is ahead of UTC; None if it is unknown."""
    if not zone:
        return timedelta(0)
    if zone in _ZONES:
        return timedelta(hours=_ZONES[zone])
    digits = re.fullmatch(r"(?:utc|gmt)?([+-])(\d{2}):?(\d{2})?", zone)
    if digits is None:
        return None
    ahead = timedelta(hours=int(digits[2]), minutes=int(digits[3] or 0))
    return ahead if digits[1] == "+" else -ahead
