"""Related pairs where the log lies: the definition of ``pairs.score`` as one Ibis expression.

Ibis compiles it for DuckDB, Spark, BigQuery, Snowflake, ClickHouse and other engines. The pairs are those of
``pairs.local``, and the scores are equal to their nine decimals. Only the pairs that are kept leave the
engine. The self-join makes a row for each ordered co-click, for which an engine needs room on its disk.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from notellm.data.log import YEAR
from notellm.data.schema import CLICKS, PAIRS
from notellm.errors import ConfigError, DataError, MissingDependencyError
from notellm.pairs.counts import PairCounts
from notellm.pairs.score import DECIMALS, PairOptions

SameTime = Literal["both", "none"]

#: Engines that `connect` takes, for messages.
ENGINES = (
    'duckdb (in this process), "local[2]" or spark://HOST:PORT (Spark), or an address that Ibis knows, '
    "such as bigquery://PROJECT/DATASET, snowflake://..., clickhouse://..."
)
_RANK = "place"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seen(NamedTuple):
    """What is known of each user and note.

    Attributes:
        rows: a row for each user and note: ``user_id``, ``note_id``, ``first`` (time of the first row),
            ``newest`` (of the last row), ``last`` (of the last click, null without one).
        users: a row for each user: ``user_id``, ``notes``, ``clicked`` (N_u), ``oldest``, ``newest``.
    """

    rows: Any
    users: Any


def connect(engine: str) -> Any:
    """Return an Ibis connection to an engine.

    Args:
        engine: one of ``ENGINES``.

    Raises:
        ConfigError: if there is no such engine, or it does not answer.
        MissingDependencyError: if Ibis, or the part of it for this engine, is not installed.
    """
    try:
        import ibis  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "pairs in a warehouse need Ibis: pip install 'notellm[warehouse]'"
        ) from error
    try:
        if engine == "duckdb":
            return ibis.duckdb.connect()
        if engine.startswith(("spark://", "local[", "yarn", "k8s://")):
            return ibis.pyspark.connect(_spark(engine))
        if "://" in engine:
            return ibis.connect(engine)
    except ImportError as error:
        raise MissingDependencyError(
            f"the engine {without_secrets(engine)} needs a part of Ibis that is not installed: {error}; "
            "for Spark: pip install 'notellm[spark]'"
        ) from error
    except Exception as error:  # each engine's driver has errors of its own
        raise ConfigError(f"the engine {without_secrets(engine)} cannot be reached: {error}") from error
    raise ConfigError(f"the engine {engine!r} is not known; allowed are {ENGINES}")


def without_secrets(engine: str) -> str:
    """Return an engine without user, password and query of its address, for records and messages."""
    scheme, mark, rest = engine.partition("://")
    return scheme + mark + rest.partition("?")[0].rpartition("@")[2]


def _spark(master: str) -> Any:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - an extra

    builder = SparkSession.builder.appName("notellm pairs").master(master)
    return builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()


def open_log(connection: Any, log: str) -> Any:
    """Return a log as an Ibis table with the columns of CLICKS.

    Args:
        connection: from :func:`connect`.
        log: the name of a table, or a Parquet file, a folder of Parquet files or a pattern, where the engine
            sees it. Without a column ``event`` every row is a click.

    Raises:
        DataError: if it is not there, or lacks a column.
    """
    import ibis  # noqa: PLC0415 - an extra

    is_file = log.endswith(".parquet") or "/" in log or Path(log).exists()
    files: Any = log
    if Path(log).is_dir() and connection.name != "pyspark":  # Spark reads folders itself
        files = sorted(str(path) for path in Path(log).rglob("*.parquet"))
        if not files:
            raise DataError(f"{log} has no Parquet files; name a folder that has some, or a table")
    try:
        table = connection.read_parquet(files) if is_file else connection.table(log)
    except Exception as error:  # each engine's driver has errors of its own
        raise DataError(f"the log {log} cannot be read: {error}") from error
    if missing := {"user_id", "note_id", "timestamp"} - set(table.columns):
        raise DataError(
            f"{log} has no column {', '.join(sorted(missing))} (it has {', '.join(table.columns)}); make "
            f"a view with the columns {', '.join(CLICKS.names)}"
        )
    if not table.timestamp.type().is_timestamp():
        raise DataError(
            f"the column timestamp of {log} is of type {table.timestamp.type()}; it must be a time"
        )
    event = table.event if "event" in table.columns else None
    return table.select(
        user_id=table.user_id.cast("string"),
        note_id=table.note_id.cast("string"),
        timestamp=table.timestamp,
        event=ibis.literal("click") if event is None else event,
    )


def mine_there(log: Any, options: PairOptions) -> tuple[pa.Table, PairCounts]:
    """Return the related pairs of a log in a warehouse, and what became of its rows and pairs.

    Args:
        log: an Ibis table with the columns of CLICKS.
        options: thresholds and window.

    Returns:
        Table with the schema PAIRS, ascending by source id, best target first; and the counts, which count
        the dropped pairs only if none is left, since that takes another self-join.

    Raises:
        DataError: if there is a window and the log keeps only the order of clicks.
    """
    time = log.timestamp
    bounds = log.aggregate(rows=log.count(), first=time.min(), newest=time.max()).to_pyarrow()
    (bound,) = bounds.to_pylist()
    rows = int(bound["rows"])
    if not rows:
        return PAIRS.empty_table(), PairCounts(same_time=options.same_time or "none")
    first, newest = (bound[name].replace(tzinfo=bound[name].tzinfo or UTC) for name in ("first", "newest"))
    is_order_only = first >= _EPOCH and newest < _EPOCH + timedelta(microseconds=YEAR)
    if options.window_days is not None:
        if is_order_only:
            raise DataError(
                f"window_days is {options.window_days}, but the log keeps only the order of clicks "
                "(all times are in 1970): use the whole log, window_days=None"
            )
        log = _in_window(log, bound["newest"] - timedelta(days=options.window_days))
    seen = seen_by_users(log)
    counts = replace(_user_counts(log, seen), rows=rows)
    has_order = (seen.users.oldest < seen.users.newest).any()
    is_unordered = is_order_only and not has_order.to_pyarrow().as_py()
    same_time: SameTime = options.same_time or ("both" if is_unordered else "none")
    found = co_clicks(seen, same_time)
    kept = best_of(found, options).to_pyarrow()
    pairs = kept.sort_by([("source", "ascending"), (_RANK, "ascending")]).select(PAIRS.names).cast(PAIRS)
    counts = replace(counts, same_time=same_time, kept=pairs.num_rows)
    return pairs, counts if pairs.num_rows else _with_fates(counts, found, options)


def _in_window(log: Any, start: datetime) -> Any:
    """Return the rows after a time."""
    import ibis  # noqa: PLC0415 - an extra

    return log.filter(log.timestamp > ibis.literal(start, type=log.timestamp.type()))


def seen_by_users(log: Any) -> Seen:
    """Return what users saw and clicked."""
    is_click = log.event == "click"
    rows = log.group_by("user_id", "note_id").aggregate(
        first=log.timestamp.min(),
        newest=log.timestamp.max(),
        last=log.timestamp.max(where=is_click),
    )
    users = rows.group_by("user_id").aggregate(
        notes=rows.count(),
        clicked=rows.last.count(),
        oldest=rows["first"].min(),
        newest=rows.newest.max(),
    )
    return Seen(rows, users)


def co_clicks(seen: Seen, same_time: SameTime) -> Any:
    """Return every directed pair: ``source``, ``target``, ``score``, ``users``."""
    views = seen.rows.select("user_id", "first", source="note_id")
    clicked = seen.rows.filter(seen.rows.last.notnull())
    weights = seen.users.select("user_id", weight=1.0 / seen.users.clicked.nullif(0))
    opened = clicked.join(weights, "user_id").select("user_id", "last", "weight", target="note_id")
    both = views.join(opened, "user_id")
    is_after = both["first"] <= both["last"] if same_time == "both" else both["first"] < both["last"]
    both = both.filter(is_after, both.source != both.target)
    pairs = both.group_by("source", "target").aggregate(score=both.weight.sum(), users=both.count())
    return pairs.mutate(score=pairs.score.round(DECIMALS))


def best_of(found: Any, options: PairOptions) -> Any:
    """Return the pairs that are kept, with their place among those of the source."""
    import ibis  # noqa: PLC0415 - an extra

    good = found.filter(
        found.users >= options.min_users, found.score >= options.lower, found.score <= options.upper
    )
    order = [ibis.desc("score"), ibis.desc("users"), ibis.asc("target")]
    ranked = good.mutate(**{_RANK: ibis.row_number().over(group_by="source", order_by=order)})
    return ranked.filter(ranked[_RANK] < options.top)


def _user_counts(log: Any, seen: Seen) -> PairCounts:
    """Return the counts of rows and users."""
    users = seen.users
    able = (users.notes >= 2) & (users.clicked >= 1)
    at_one_time = able & (users.oldest == users.newest)
    totals = users.aggregate(
        users=users.count(),
        able=able.sum(),
        at_one_time=at_one_time.sum(),
        example=users.user_id.min(where=at_one_time),
    ).to_pyarrow()
    (row,) = totals.to_pylist()
    clicks = log.aggregate(rows=log.count(), clicks=(log.event == "click").sum()).to_pyarrow().to_pylist()[0]
    return PairCounts(
        in_window=int(clicks["rows"]),
        clicks=int(clicks["clicks"] or 0),
        users=int(row["users"]),
        able=int(row["able"] or 0),
        at_one_time=int(row["at_one_time"] or 0),
        example=row["example"] or "",
    )


def _with_fates(counts: PairCounts, found: Any, options: PairOptions) -> PairCounts:
    """Return the counts with how many pairs were found and dropped, and for what."""
    enough = found.users >= options.min_users
    totals = found.aggregate(
        found=found.count(),
        few_users=(~enough).sum(),
        low=(enough & (found.score < options.lower)).sum(),
        high=(enough & (found.score > options.upper)).sum(),
        most_users=found.users.max(),
    ).to_pyarrow()
    fates: dict[str, Any] = {name: int(value or 0) for name, value in totals.to_pylist()[0].items()}
    return replace(counts, **fates)
