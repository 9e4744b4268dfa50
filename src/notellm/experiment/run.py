"""The experiment as a job: a folder of prepared data in, a report out.

OUTPUT/       the report (``report/``)
OUTPUT.runs/  every result that took long (``cache.py``); a second run computes only what is missing
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from notellm.artifacts.replace import check_replaceable
from notellm.errors import DataError
from notellm.experiment.cache import Cache, Task
from notellm.experiment.circumstances import circumstances, made_by
from notellm.experiment.leakage import check_impressions, check_split, check_topics_hidden, require
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.rank.data import RankData, has_impressions
from notellm.experiment.rank.part import RankPart
from notellm.experiment.recall.ablations import ablations
from notellm.experiment.recall.methods import NOTELLM, recall_methods
from notellm.experiment.recall.part import RecallPart
from notellm.experiment.recall.sentence import load_sentence_model
from notellm.experiment.recall.source import RecallData, load_recall_data
from notellm.experiment.report.plot_style import check_matplotlib
from notellm.experiment.report.write import write_report
from notellm.experiment.results import Results
from notellm.experiment.schedule import SHARES, Schedule, chosen_share, in_words
from notellm.jobs.folders import PARTS, is_split
from notellm.record import make_record

#: Fewest training notes that a budget chooses; models of fewer say nothing about more.
_LEAST_NOTES = 500
#: Name of a public dataset with impressions, and the folder of its files.
Dataset = tuple[str, Path]


@dataclass
class _Parts:
    """What an experiment computes; None for a part that was not asked for, or whose data are missing."""

    recall: RecallPart | None = None
    rank: RankPart | None = None


def run_experiment(
    source: str | Path | Dataset,
    output: str | Path,
    options: ExperimentOptions | None = None,
    *,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Results:
    """Run the papers' comparisons on prepared data, and write a report.

    Args:
        source: a dataset folder, a split folder, or a folder of notes and impressions; or the name of a
            public dataset with impressions and the folder of its files.
        output: folder of the report; results are kept in ``OUTPUT.runs``.
        options: what is compared.
        force: as in ``artifacts.write_folder``.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.
        say: prints a line.

    Returns:
        What was found, which the report shows.

    Raises:
        ConfigError: if an option is not allowed.
        DataError: if the data allow none of the parts that were asked for, or something of the test part is
            known in training.
        ModelError: if a model cannot be loaded.
        StorageError: if something cannot be written, or ``output`` may not be replaced.
    """
    chosen = (options or ExperimentOptions()).checked()
    check_replaceable(output, "report", force=force)
    check_matplotlib()
    name = source[0] if isinstance(source, tuple) else Path(source).resolve().name
    results = Results(name)
    cache = Cache(Path(output).with_name(f"{Path(output).name}.runs"))
    schedule = Schedule(cache, say, chosen.budget_seconds)
    parts = _Parts()
    switches = {"trust_remote_code": trust_remote_code, "progress": progress}
    problems: list[str] = []
    if chosen.sentence_encoder is not None:
        load_sentence_model(chosen.sentence_encoder)  # reports mistakes before the long work
    if chosen.recall or chosen.ablations:
        try:
            data = _recall_data(source, chosen)
        except DataError as error:
            problems.append(f"The table of related notes was left out: {error}.")
        else:
            results.checks += check_split(data.split, data.pairs, by=data.by)
            results.checks += [check_topics_hidden(template) for template in _templates(chosen)]
            parts.recall = RecallPart(data, chosen, cache, **switches)
    if chosen.rank:
        try:
            impressions = _rank_data(source, chosen)
        except DataError as error:
            problems.append(f"The table of rankers was left out: {error}.")
        else:
            results.checks += check_impressions(impressions.train, impressions.valid, impressions.test)
            parts.rank = RankPart(impressions, chosen, cache, **switches)
            results.facts["impressions"] = _sizes(impressions, "", PARTS)
            results.notes += _how_impressions_came(source)
    if parts.recall is None and parts.rank is None:
        raise DataError(" ".join(problems))
    for problem in problems:
        say(problem)
    require(results.checks)
    if parts.recall is not None:
        if schedule.budget is not None:
            parts.recall = _fitted(parts.recall, schedule, say)
        results.facts |= _facts(parts.recall.data)
    tasks = _in_order(parts)
    done = schedule.run(tasks)
    say("measuring")
    for part in (parts.recall, parts.rank):
        if part is not None:
            part.collect(results, done)
    results.left_out += [*problems, *schedule.left_out]
    others = Counter(each.made_by for each in done.values())
    others.pop(made_by(), None)
    results.notes += [
        f"{count} results were computed earlier by: {other}." for other, count in others.items()
    ]
    results.facts |= circumstances() | {"time": f"{in_words(schedule.gone)} for what had not been computed"}
    record = make_record(
        kind="report",
        config=asdict(chosen),
        data={
            "recall": None if parts.recall is None else parts.recall.data.fingerprints(),
            "rank": None if parts.rank is None else dict(parts.rank.data.described),
        },
        seed=chosen.seed,
        metrics={"results": len(done), "left_out": len(results.left_out)},
    )
    write_report(results, output, record=record, force=force)
    return results


def _recall_data(source: str | Path | Dataset, options: ExperimentOptions) -> RecallData:
    if isinstance(source, tuple):
        raise DataError(f"{source[0]} has impressions, and no log of clicks")
    return load_recall_data(source, options)


def _rank_data(source: str | Path | Dataset, options: ExperimentOptions) -> RankData:
    if isinstance(source, tuple):
        data = RankData.from_dataset(*source)
    else:
        data = RankData.from_folder(source, seed=options.seed)
    return data.limited(options.rank_rows, seed=options.seed)


def _how_impressions_came(source: str | Path | Dataset) -> list[str]:
    """Return how impressions were made of clicks, in a sentence; nothing where there were impressions."""
    if isinstance(source, tuple) or has_impressions(source):
        return []
    part = " of the train part" if is_split(source) else ""
    how = (
        f"Impressions were made of the clicks{part}: each click is beside notes that the user did not click, "
        "those that were viewed, or else drawn by popularity. Impressions of your own, with notes that were "
        "shown and not clicked, say more."
    )
    return [how]


def _templates(options: ExperimentOptions) -> list[str]:
    """Return the wordings with which topics are written in this experiment."""
    methods = [*recall_methods(options).values(), *(ablations(options) if options.ablations else [])]
    chosen = [
        method.recall_options(options, options.seed).resolved().template
        for method in methods
        if method.writes
    ]
    return sorted({str(template) for template in chosen})


def _sizes(data: Any, attribute: str, parts: Sequence[str]) -> str:
    """Return the rows of the parts of some data in words."""
    tables = {part: getattr(data, part) for part in parts}
    if attribute:
        tables = {part: getattr(table, attribute) for part, table in tables.items()}
    return ", ".join(f"{table.num_rows:,} {part}" for part, table in tables.items())


def _in_order(parts: _Parts) -> list[Task]:
    """Return all tasks: both tables with the first seed, the paper's ablations, further seeds, the rest."""
    first: list[Task] = []
    ablated: list[Task] = []
    further: list[Task] = []
    rest: list[Task] = []
    if parts.recall is not None:
        first, ablated, further, rest = map(list, parts.recall.tasks())
    if parts.rank is not None:
        rankers, more = parts.rank.tasks()
        first += rankers
        further += more
    return [*first, *ablated, *further, *rest]


def _fitted(part: RecallPart, schedule: Schedule, say: Callable[[str], None]) -> RecallPart:
    """Return the recall part with as many training notes as the budget allows.

    NoteLLM is trained on the smallest share first, which says how long a larger one takes.
    """
    options, data = part.options, part.data
    say("with a budget, NoteLLM is first trained on a small share of the notes, to tell how long it takes")
    count = data.split.train.notes.num_rows
    shares = [share for share in SHARES if share * count >= _LEAST_NOTES] or [1.0]
    sizes = {share: data.with_training_share(share, options.seed) for share in shares}
    pairs = {share: size.pairs["train"].num_rows for share, size in sizes.items()}
    share = shares[-1]
    task = replace(part, data=sizes[share]).task(recall_methods(options)[NOTELLM], options.seed)
    found = schedule.run([task]).get(task.name)
    if found is not None:
        # After a kill the time of the training alone is not known.
        trained = found.figures["seconds"]["train"] or found.seconds
        fixed = max(0.0, found.seconds - trained)
        methods = sum(each.kind in ("notellm", "tuned sentence") for each in recall_methods(options).values())
        share = chosen_share(schedule.budget or 0.0, fixed, trained, pairs, methods)
        schedule.spent["notellm"] = [fixed + trained * pairs[share] / max(1, pairs[shares[-1]])]
    if share < 1:
        kept = sizes[share].split.train.notes.num_rows
        schedule.left_out.append(
            f"For the budget of {options.budget}, all trained methods learn from {kept:,} of {count:,} "
            "training notes, drawn at random."
        )
        say(schedule.left_out[-1])
    return replace(part, data=sizes[share])


def _facts(data: RecallData) -> dict[str, str]:
    """Return the sizes of the data of the recall table in words."""
    pairs = ", ".join(f"{data.pairs[part].num_rows:,} {part}" for part in PARTS)
    how = "no test note is in train" if data.by == "note" else "test clicks are later than train clicks"
    return {
        "split": f"by {data.by}: {how}",
        "notes": _sizes(data.split, "notes", PARTS),
        "related pairs": pairs,
    }
