"""The sections of a report: what each asks, how its figures are read, and its tables and plots.

They are built once and written twice, as HTML and as Markdown. A section without data is left out.
"""

from collections.abc import Sequence

from notellm.experiment.report.ablations import ablation_grid, cost_grid
from notellm.experiment.report.answer import alarms, answer_blocks, other_facts
from notellm.experiment.report.blocks import (
    Block,
    Bullets,
    Claims,
    Drawing,
    Drawings,
    Examples,
    Heading,
    Paragraph,
    Report,
    Section,
    Strong,
    Term,
    Terms,
)
from notellm.experiment.report.findings import ABLATION, Findings
from notellm.experiment.report.tables import (
    breakdown_grid,
    difference_grid,
    method_grids,
    table_name,
)
from notellm.experiment.report.words import breakdown_name, line
from notellm.experiment.results import Results

_INTROS = {
    "recall": (
        "For a note that somebody reads, are the notes that people open together with it near the top of "
        "the list? Recall@k (R@k) is the share of queries whose related note is among the k nearest; more "
        "is better."
    ),
    "writing": (
        "Given only the text of a note that was never seen, does a method name the category and the "
        "topics that its author chose? Accuracy is the share of right categories; F1 weighs topics that "
        "are right against those that are missing or wrong."
    ),
    "rank": (
        "Given what a user liked before, does a method put the notes that the user will like above the "
        "others? AUC is the chance that a liked row is above another one, over all users; UAUC is the "
        "same within each user; 0.5 is no better than chance."
    ),
}
_DIFFERENCES = (
    "Two methods are compared on the same queries, so that what is hard for both cancels out. A "
    "difference is taken for real if its p, corrected for the number of comparisons, is below 0.05."
)
_TERMS = (
    (
        "recall",
        "Query, target, pool",
        (
            "A query is a note; its target is the related note that people opened most "
            "often together with it; the pool is all notes among which the target is looked for."
        ),
    ),
    ("recall", "R@k", "Recall@k: share of queries whose target is among the k nearest notes of the pool."),
    (
        "recall",
        "MRR",
        "Mean reciprocal rank: mean of 1 / rank of the target; 100 % if it always comes first.",
    ),
    ("recall", "TF-IDF, BM25", "Comparison by common words, rare words counting more. Needs no training."),
    (
        "recall",
        "NoteLLM",
        (
            "A language model that compresses a note into one vector, trained on notes that people "
            "open together; the same model writes categories and topics."
        ),
    ),
    ("recall", "hybrid", "The score of the vectors and the score of the words, added with a weight."),
    ("recall", "GCL", "The contrastive loss: notes that people open together are to have near vectors."),
    (
        "",
        "CSFT",
        (
            "The writing loss: the model also learns to write categories and topics. Its weight is α "
            "(alpha), the share of notes that write topics r (topic_share)."
        ),
    ),
    ("recall", "Exposure", "How many clicks a note has. Notes of low exposure are new or rarely shown."),
    (
        "writing",
        "Accuracy, macro-F1, top-5",
        (
            "Share of right categories; mean of the F1 of each category, rare ones counting as much as "
            "frequent ones; share of notes whose category is among the five most probable."
        ),
    ),
    ("writing", "Ill-formed", "Share of written categories that are none of the known ones."),
    (
        "writing",
        "ECE",
        "Expected calibration error: how far probabilities are from how often they come true.",
    ),
    (
        "writing",
        "BLEU, ROUGE (RG)",
        "How many words and word sequences of the true topics are in the written ones.",
    ),
    (
        "rank",
        "BinLLM, BinMF",
        (
            "A language model that reads what a user liked, with the habits of users and notes "
            "as short binary codes in its prompt; BinMF is the codes alone, without a language model."
        ),
    ),
    (
        "rank",
        "AUC, UAUC",
        (
            "Chance that a liked row is scored above another one: over all rows, and within the rows "
            "of each user, then averaged."
        ),
    ),
    ("rank", "Warm, cold", "Rows whose user and note were seen in training, and rows where one was not."),
    (
        "",
        "Interval",
        "Bootstrap: the queries are drawn anew many times, and 95 % of the means so found lie in it.",
    ),
    (
        "",
        "Seed, ±",
        (
            "A training starts from random numbers, which a seed fixes. ± is the standard deviation of the "
            "means over several seeds."
        ),
    ),
    (
        "",
        "p, corrected p",
        (
            "How probable a difference at least this large would be if there were none. Among many "
            "comparisons some are small by chance; Holm's correction raises p accordingly."
        ),
    ),
)


def build_report(results: Results, drawings: Sequence[Drawing]) -> Report:
    """Return the sections of a report.

    Args:
        results: the results.
        drawings: the plots of ``draw_plots``, or none.
    """
    findings = Findings(results)
    tables = [name for name in ("recall", "writing", "rank") if findings.methods(name)]
    warm = _warm_breakdowns(findings)
    sections = [
        Section("answer", "The answer in short", "", answer_blocks(findings)),
        _checks(results),
        *(_table(findings, name, drawings, warm if name == "rank" else []) for name in tables),
        _ablations(findings, drawings),
        _breakdowns(findings, drawings, warm),
        _claims(results),
        _training(drawings),
        _map(drawings),
        _examples(results),
        _costs(findings),
        _left_out(results),
        _notes(results),
        _how(results),
        _glossary(tables),
    ]
    return Report(line(results.title), alarms(results), [s for s in sections if s is not None and s.blocks])


def _warm_breakdowns(findings: Findings) -> list[str]:
    """Return the breakdowns of rank that tell warm rows from cold ones, which stand in its table."""
    return [
        name
        for name in findings.breakdowns("rank")
        if any(group.startswith(("warm", "cold")) for group in findings.groups("rank", name))
    ]


def _plots(drawings: Sequence[Drawing], section: str, prefix: str = "") -> list[Block]:
    found = [each for each in drawings if each.section == section and each.name.startswith(prefix)]
    return [Drawings(found)] if found else []


def _checks(results: Results) -> Section:
    blocks: list[Block] = [
        Paragraph(
            [
                Strong("Passed: " if check.passed else "Failed: "),
                f"{line(check.name)}. Counted: {line(check.detail)}.",
            ],
            "good" if check.passed else "bad",
        )
        for check in results.checks
    ]
    intro = (
        "Was anything of the test part known in training? If so, the figures would be too good. Each line "
        "names what must not be there, and what was counted."
    )
    return Section("checks", "Checks for leaks", intro, blocks)


def _table(findings: Findings, table: str, drawings: Sequence[Drawing], wide: Sequence[str]) -> Section:
    """Return the section of recall, writing or rank."""
    blocks: list[Block] = [*method_grids(findings, table, wide), *_plots(drawings, table)]
    differences = difference_grid(findings, table)
    if differences is not None:
        blocks += [Heading("Differences between methods"), Paragraph([_DIFFERENCES]), differences]
    return Section(table, table_name(table), _INTROS[table], blocks)


def _ablations(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    grid = ablation_grid(findings)
    blocks: list[Block] = [*_plots(drawings, "ablations"), *([grid] if grid else [])]
    intro = (
        "What does each choice contribute? One option at a time is varied and compared with its "
        "reference, everything else stays as it is. A setting may help recall and harm writing, so both "
        "are shown. Each setting is one training: another seed would move its figures as well, which the "
        "intervals do not hold."
    )
    return Section(f"{ABLATION}s", "Ablations", intro, blocks)


def _breakdowns(findings: Findings, drawings: Sequence[Drawing], elsewhere: Sequence[str]) -> Section:
    """Return the figures by groups of queries; those that stand in another table are only drawn."""
    blocks: list[Block] = [*_plots(drawings, "breakdowns")]
    for table in ("recall", "writing", "rank"):
        for breakdown in findings.breakdowns(table):
            if table == "rank" and breakdown in elsewhere:
                continue
            blocks += [
                Heading(f"{table_name(table)} by {breakdown_name(breakdown)}"),
                breakdown_grid(findings, table, breakdown),
            ]
    intro = (
        "For which notes and users do the methods work? Every method is measured on each group of queries "
        "alone; small groups have wide intervals."
    )
    return Section("breakdowns", "By groups", intro, blocks)


def _claims(results: Results) -> Section:
    intro = (
        "Do the statements of the papers hold on these data? A claim holds if the difference goes the "
        "same way and is more than chance explains."
    )
    return Section("claims", "The papers' claims", intro, [Claims(results.claims)] if results.claims else [])


def _training(drawings: Sequence[Drawing]) -> Section:
    intro = (
        "Did the trainings run to their end? A curve that still rises at its end says that more steps "
        "would help; one that falls says that fewer would have been better."
    )
    return Section("training", "Training curves", intro, _plots(drawings, "training"))


def _map(drawings: Sequence[Drawing]) -> Section:
    intro = (
        "Do notes of the same kind lie together? Each point is a note; the map has only two of the "
        "vectors' many dimensions, so it shows rough neighbourhoods only."
    )
    return Section("map", "Map of the notes", intro, _plots(drawings, "map"))


def _examples(results: Results) -> Section:
    found, missed = results.examples.get("found", []), results.examples.get("missed", [])
    intro = (
        "What do found and missed related notes look like? Under each query stand its nearest notes with "
        "their scores; ✓ marks those that people did open together with it."
    )
    return Section("examples", "Examples", intro, [Examples(found, missed)] if found or missed else [])


def _costs(findings: Findings) -> Section:
    grid = cost_grid(findings)
    intro = "What does each method take to train, and how many notes does it read in a second?"
    return Section("costs", "Costs", intro, [grid] if grid is not None else [])


def _left_out(results: Results) -> Section:
    items = [[line(text)] for text in results.left_out]
    intro = "What was not computed, and why."
    return Section("left-out", "Left out", intro, [Bullets(items)] if items else [])


def _notes(results: Results) -> Section:
    items = [[line(text)] for text in results.notes]
    intro = "What else a reader of the figures should know."
    return Section("notes", "Notes", intro, [Bullets(items)] if items else [])


def _how(results: Results) -> Section:
    facts = other_facts(results)
    intro = "With this command, these versions and this machine the figures can be computed again."
    return Section("how", "How it was measured", intro, [Terms(facts)] if facts else [])


def _glossary(tables: Sequence[str]) -> Section:
    terms = [Term(name, meaning) for table, name, meaning in _TERMS if not table or table in tables]
    return Section("glossary", "Glossary", "The words of this report.", [Terms(terms)] if tables else [])
