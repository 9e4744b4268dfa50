"""The answer of a report in sentences: what was measured, which method is best, and what is not certain."""

from notellm.experiment.report.blocks import Block, Bullets, Paragraph, Sentence, Strong, Term, Terms
from notellm.experiment.report.findings import Difference, Findings, Row
from notellm.experiment.report.tables import Column, counted_text, table_name
from notellm.experiment.report.words import Form, count, line, listed, probability, recall_depth, visible
from notellm.experiment.results import Results

#: The figures that sum up writing and rank, with what they are about.
_SUMS_UP = {"accuracy": "Categories", "F1": "Topics", "AUC": "Rank", "UAUC": "Rank within each user"}
#: Names of facts that say what was measured; the others say how.
_WHAT = ("data", "split", "dataset", "notes", "clicks")


def alarms(results: Results) -> list[Paragraph]:
    """Return a paragraph for each failed check for leaks, and one on what that means."""
    failed = [check for check in results.checks if not check.passed]
    if not failed:
        return []
    first = (
        "A check for leaks failed: something of the test part was known in training, so the figures below "
        "are too good and must not be relied on."
    )
    return [
        Paragraph([Strong(first)], "bad"),
        *(Paragraph([Strong(f"{line(each.name)}: "), line(each.detail)], "bad") for each in failed),
    ]


def answer_blocks(findings: Findings) -> list[Block]:
    """Return what was measured and what came out, in sentences."""
    results = findings.results
    blocks: list[Block] = [Paragraph(_measured(findings))]
    facts = [Term(line(name), visible(value)) for name, value in results.facts.items() if _says_what(name)]
    if facts:
        blocks.append(Terms(facts))
    blocks += [*_recall(findings), *_others(findings, "writing"), *_others(findings, "rank")]
    remarks = [sentence for sentence in (_checked(results), _claimed(results)) if sentence]
    if remarks:
        blocks.append(Bullets(remarks))
    return blocks


def _says_what(name: str) -> bool:
    return name.lower() in _WHAT


def other_facts(results: Results) -> list[Term]:
    """Return the facts that say how it was measured: command, versions, machine, time."""
    return [
        Term(line(name), visible(value), code="command" in name.lower() or "\n" in value.strip())
        for name, value in results.facts.items()
        if not _says_what(name)
    ]


def _measured(findings: Findings) -> Sentence:
    """Return which questions the report answers, with how many methods."""
    questions = {
        "recall": "ways of finding the notes that people open together",
        "writing": "ways of writing the category and the topics of a note",
        "rank": "ways of ordering notes by what a user will like",
    }
    parts = [
        f"{count(len(methods))} {question}"
        for table, question in questions.items()
        if (methods := findings.methods(table))
    ]
    if not parts:
        return ["Nothing was measured."]
    compared = f"This report compares {listed(parts)} on one data set, every method on the same notes, which"
    return [
        f"{compared} were kept apart from training. ",
        "All intervals say how far a figure would move on other queries of the same kind.",
    ]


def _recall(findings: Findings) -> list[Block]:
    """Return which method finds the most related notes."""
    table = "recall"
    figure = findings.headline(findings.figures(table, breakdown=""))
    best = findings.best(table, figure) if figure else None
    row = findings.row(table, best, figure) if best and figure else None
    if best is None or figure is None or row is None:
        return []
    form, k = findings.form(table, figure), recall_depth(figure)
    text: list[str | Strong] = [Strong("Related notes. ")]
    if k is None:
        text += [*_who(findings, table, best), f" is best by {line(figure)}: ", *_value(row, form)]
    else:
        pool = "" if row["pool"] is None else f" of a pool of {count(row['pool'])} notes"
        text += [
            *_who(findings, table, best),
            f" finds the related note among the {k:,} nearest{pool} for ",
            *_value(row, form),
            f" of {count(row['count'])} queries",
        ]
    text += [f". That is the best of {count(len(findings.methods(table)))} methods."]
    return [Paragraph(text, "lead"), *_compared(findings, table, figure, best)]


def _others(findings: Findings, table: str) -> list[Block]:
    """Return which method is best by the figures that sum up writing or rank."""
    figures = findings.figures(table, breakdown="")
    blocks: list[Block] = []
    for figure in [name for name in figures if name.split()[-1] in _SUMS_UP] or figures[:1]:
        best = findings.best(table, figure)
        row = findings.row(table, best, figure) if best else None
        if best is None or row is None:
            continue
        number = len(findings.rows(table, figure=figure, breakdown=""))
        text = [
            Strong(f"{_SUMS_UP.get(figure.split()[-1], table_name(table))}. "),
            *_who(findings, table, best),
            f" is the best of {count(number)} methods by {line(figure)}: ",
            *_value(row, findings.form(table, figure)),
            f" on {counted_text(findings, table, [Column(figure)])}.",
        ]
        blocks += [Paragraph(text, "lead"), *_compared(findings, table, figure, best)]
    return blocks


def _who(findings: Findings, table: str, best: str) -> Sentence:
    """Return the best method, and that it is the default if it is."""
    return [Strong(line(best)), ", the default," if best == findings.default(table) else ""]


def _value(row: Row, form: Form) -> Sentence:
    """Return a mean with its unit and interval."""
    interval = form.interval(row["low"], row["high"])
    return [Strong(f"{form.number(row['mean'])}{form.unit}"), f" {interval}" if interval else ""]


def _compared(findings: Findings, table: str, figure: str, best: str) -> list[Block]:
    """Return how far the best method is ahead of those that matter, and which ones are level with it."""
    items: list[Sentence] = []
    default = findings.default(table)
    for other in findings.landmarks(table):
        row = findings.row(table, other, figure)
        if other != best and row is not None:
            items.append(
                _ahead(findings, table, figure, best, other, "the default" if other == default else "")
            )
    level = [name for name in findings.level(table, figure) if name not in findings.landmarks(table)]
    if level:
        items.append(
            [
                "Not certain: these data cannot tell ",
                Strong(line(best)),
                " from ",
                *_strong_list([line(name) for name in level]),
                ", whose differences may be chance (corrected p of 0.05 or more).",
            ]
        )
    return [Bullets(items)] if items else []


def _strong_list(names: list[str]) -> list[str | Strong]:
    pieces: list[str | Strong] = []
    for i, name in enumerate(names):
        if i:
            pieces.append(" and " if i == len(names) - 1 else ", ")
        pieces.append(Strong(name))
    return pieces


def _ahead(findings: Findings, table: str, figure: str, best: str, other: str, role: str) -> Sentence:
    """Return how far the best method is ahead of another one, and whether that is certain."""
    form = findings.form(table, figure)
    ours, theirs = (findings.row(table, name, figure) or {} for name in (best, other))
    value = f"({form.number(theirs.get('mean'))}{form.unit})"
    ahead: list[str | Strong] = [
        "head of ",
        Strong(line(other)),
        f", {role} {value}, by " if role else f" {value} by ",
    ]
    difference = findings.difference(table, best, other, figure)
    if difference is None or difference.difference is None:
        gap = form.number(abs((ours.get("mean") or 0.0) - (theirs.get("mean") or 0.0)))
        return ["A", *ahead, f"{gap}{form.points}; whether that is more than chance was not tested."]
    gap = _gap(difference, form)
    if not difference.sure:
        return ["Not certain: a", *ahead, f"{gap}, which may be chance ({_corrected(difference)})."]
    return ["A", *ahead, f"{gap}, {_corrected(difference)}."]


def _gap(difference: Difference, form: Form) -> str:
    """Return a difference without its sign and with its interval, as "8.4 points [7.2, 9.6]"."""
    value, low, high = difference.difference, difference.low, difference.high
    if form.better < 0:
        value, low, high = (None if x is None else -x for x in (value, high, low))
    return f"{form.number(value)}{form.points} {form.interval(low, high)}".rstrip()


def _corrected(difference: Difference) -> str:
    text = probability(difference.p_adjusted)
    return f"corrected {text}" if text else "not tested"


def _checked(results: Results) -> Sentence:
    """Return what became of the checks for leaks."""
    if not results.checks:
        return ["Whether the test part was known in training was not checked."]
    passed = sum(check.passed for check in results.checks)
    if passed < len(results.checks):
        return [Strong(f"{len(results.checks) - passed} of {len(results.checks)} checks for leaks failed.")]
    return [f"Every check for leaks passed ({count(passed)} of {count(passed)})."]


def _claimed(results: Results) -> Sentence:
    """Return how many claims of the papers hold."""
    if not results.claims:
        return []
    verdicts = [claim.verdict for claim in results.claims]
    holds, fails = verdicts.count("holds"), verdicts.count("does not hold")
    return [
        (
            f"Of {count(len(verdicts))} claims of the papers, these data confirm {holds}, contradict "
            f"{fails}, and cannot decide {len(verdicts) - holds - fails}."
        )
    ]
