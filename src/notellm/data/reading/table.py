"""Read a table of cells from files: Parquet, delimited text or JSON, one file or the parts of one table."""

import io
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.data.cells.nested import NestedCells, Role, at_path
from notellm.data.problems import Report
from notellm.data.reading.delimited import QuotesAreText, first_width, read_delimited
from notellm.data.reading.dialect import Dialect, quoting_of, separator_of
from notellm.data.reading.encoding import decoded_blocks, encoding_of
from notellm.data.reading.headings import lines_above, without_headings, without_lines
from notellm.data.reading.json_files import Wanted, read_json
from notellm.data.reading.options import ReadOptions
from notellm.data.reading.parts import first_rows, joined_tables, merged
from notellm.data.reading.sources import content_of, files_of
from notellm.errors import ConfigError, DataError, StorageError, did_you_mean

_SAMPLE = 1 << 20  # characters by which separator and quoting are told


@dataclass(frozen=True)
class Layout:
    """The columns of a table.

    Attributes:
        roles: our names of the columns, each with what its values are for.
        needed: groups of names, of each of which at least one must be there.
    """

    roles: dict[str, Role]
    needed: tuple[tuple[str, ...], ...]

    @property
    def is_log(self) -> bool:
        """Whether the table is a click log: many rows of few ids, and it may be empty."""
        return "user_id" in self.roles


def read_table(
    path: str | Path, layout: Layout, options: ReadOptions, report: Report
) -> tuple[pa.Table, list[str]]:
    """Read the columns of a table that are in the layout, under our names, in the types of the file.

    Args:
        path: a file, a folder of parts, or a pattern such as "logs/*.csv.gz".
        layout: the columns.
        options: how the table is read.
        report: receives what was guessed, and what could not be read.

    Returns:
        The table, and the names of all columns of the (first) file.

    Raises:
        StorageError: if there is no such file, or it cannot be read.
        DataError: if a file holds no table, or lacks a column.
        ConfigError: if an option names a column that is none of ours.
    """
    _check_names(options, layout)
    files = files_of(path)
    tables, names, reports = [], None, []
    left = options.rows
    empty = [file for file in files if not file.stat().st_size] if len(files) > 1 else []
    files = [file for file in files if file not in empty] or files[:1]
    for file in files:
        own = Report()
        try:
            table, present = _read_file(file, layout, replace(options, rows=left), own)
        except DataError as error:
            if len(files) == 1:
                raise
            raise DataError(
                f"{error} (a folder or pattern must name the parts of one table; {file.name} is one of "
                f"{len(files)} files: leave it out with a pattern such as 'parts/*.csv')"
            ) from error
        reports.append(own)
        tables.append(table)
        names = names or present
        if left is not None and (left := left - table.num_rows) <= 0:
            break
    if len(files) > 1:
        where = Path(path).name
        report.add(
            "table in several files", where, len(files), files[0].name, "read as one table", informs=True
        )
        _report_parts(files, tables, layout, where, report)
    if empty:
        report.add("empty file", Path(path).name, len(empty), empty[0].name, "left out")
    if options.rows is not None:
        tables = first_rows(tables, options.rows)
    for problem in merged(reports, Path(path).name):
        report.problems.append(problem)
    return joined_tables(tables, layout.roles, Path(path).name, report), names or []


def _report_parts(
    files: Sequence[Path], tables: Sequence[pa.Table], layout: Layout, where: str, report: Report
) -> None:
    """Report columns that only some parts have, and columns in the names of folders."""
    for name in layout.roles:
        without = [file for file, table in zip(files, tables, strict=False) if name not in table.column_names]
        if 0 < len(without) < len(tables):
            report.add(f"files without {name!r}", where, len(without), without[0].name, "empty in their rows")
    folders = [part for file in files for part in file.parent.parts if "=" in part]
    report.add("columns in folder names", where, len(set(folders)), folders[0] if folders else "", "not read")


def _check_names(options: ReadOptions, layout: Layout) -> None:
    for name in options.columns:
        if name not in layout.roles:
            raise ConfigError(
                f"columns option: {name!r} is not one of our columns {', '.join(layout.roles)}"
                f"; write our name first, then the file's{did_you_mean(name, layout.roles)}"
            )


def _read_file(
    path: Path, layout: Layout, options: ReadOptions, report: Report
) -> tuple[pa.Table, list[str]]:
    content = content_of(path)
    present: list[str] = []
    named: dict[str, str] = {}
    guessed = Report()

    def places(header: list[str]) -> dict[str, int]:
        present[:] = header
        guessed.problems.clear()
        found = _places(header, layout, options, path, guessed)
        named.update({ours: header[place] for ours, place in found.items()})
        return found

    if content == "parquet":
        return _read_parquet(path, layout, options, report)
    if path.stat().st_size == 0:
        return _empty(layout, path, report)
    most, pack = options.rows, layout.is_log
    encoding = encoding_of(path, options.encoding, report)
    blocks = decoded_blocks(path, encoding)
    if content == "json":
        wanted = [Wanted(name, options.columns.get(name, name), role) for name, role in layout.roles.items()]

        def choose(names: list[str]) -> list[str]:
            present.extend(names)
            found = [
                each.name for each in wanted if each.theirs in names or each.theirs.split(".")[0] in names
            ]
            _require(found, names, layout, options, path, delimited=False)
            return found

        needed = [{options.columns.get(name, name) for name in group} for group in layout.needed]
        if any("." in name for group in needed for name in group):
            needed = []  # the user says where rows are
        table = read_json(blocks, path, wanted, choose, report, needed=needed, most=most, pack=pack)
        return table, present

    text, sample, whole = _sampled(blocks)
    if not sample.strip():
        return _empty(layout, path, report)
    names = {options.columns.get(name, name) for name in layout.roles}
    above = _above(sample, layout, options)
    if above:
        lines = list(io.StringIO(sample, newline=""))
        given = [line.strip() for line in lines[:above] if line.strip()]
        report.add("lines above the header", path.name, len(given), "".join(given[:1]), "left out")
        sample, text = "".join(lines[above:]), without_lines(text, above)
    separator = separator_of(path.name, sample, names, options.separator, report)
    dialect = quoting_of(sample, separator, options.quoting, whole=whole)
    if not options.header:
        width = first_width(sample, dialect)
        header = [f"#{place + 1}" for place in range(width)]
        found = places(header)
        text = chain([dialect.separator.join(header) + "\n"], text)
        table_places = lambda _: found  # noqa: E731 - the header was made here
    else:
        table_places = places
    try:
        own = Report()
        table = read_delimited(text, path, table_places, own, dialect, most=most, above=above, pack=pack)
    except QuotesAreText:
        own = Report()
        dialect = replace(dialect, quoting="none")
        again: Iterable[str] = without_lines(decoded_blocks(path, encoding), above)
        if not options.header:
            again = chain([dialect.separator.join(header) + "\n"], again)
        table = read_delimited(again, path, table_places, own, dialect, most=most, above=above, pack=pack)
    _report_quoting(dialect, path, sample, report)
    report.problems.extend(guessed.problems + own.problems)
    return without_headings(table, named, path.name, report), present


def _above(sample: str, layout: Layout, options: ReadOptions) -> int:
    """Return the number of lines above the header, if names say which line that is."""
    if not options.header or any(name.startswith("#") for name in options.columns.values()):
        return 0
    needed = [{options.columns.get(name, name) for name in group} for group in layout.needed]
    return lines_above(sample, needed, options.separator)


def _report_quoting(dialect: Dialect, path: Path, sample: str, report: Report) -> None:
    quoting = dialect.quoting
    quoted = [line for line in sample.split("\n") if '"' in line]
    example = quoted[0] if quoted else ""
    if dialect.skips_spaces:
        report.add("spaces before quotes", path.name, len(quoted), example, "quotes are read as such")
    if quoting == "double" or not dialect.is_guess:
        return
    action = "quotes are text" if quoting == "none" else 'read \\" as "'
    report.add(
        "quotes by other rules than two for one",
        path.name,
        max(1, len(quoted)),
        example,
        action,
        f"--quoting {quoting}",
    )


def _sampled(blocks: Iterator[str]) -> tuple[Iterable[str], str, bool]:
    """Return blocks, their beginning, and whether that is all of them."""
    first: list[str] = []
    size, whole = 0, True
    for block in blocks:
        first.append(block)
        size += len(block)
        if size >= _SAMPLE:
            whole = False
            break
    text = "".join(first)
    end = len(text) if whole else (text.rfind("\n", 0, _SAMPLE) + 1 or len(text))
    return chain(first, blocks), text[:end], whole and end == len(text)


def _empty(layout: Layout, path: Path, report: Report) -> tuple[pa.Table, list[str]]:
    if not layout.is_log:
        raise DataError(f"{path} is empty")
    report.add("no rows", path.name, 1, "", "an empty table")
    return pa.table(
        {name: pa.array([], pa.large_string()) for group in layout.needed for name in group[:1]}
    ), []


def _places(
    header: list[str],
    layout: Layout,
    options: ReadOptions,
    path: Path,
    report: Report,
    *,
    delimited: bool = True,
) -> dict[str, int]:
    """Return the place of each of our columns that a header has."""
    found: dict[str, int] = {}
    for ours in layout.roles:
        theirs = options.columns.get(ours, ours)
        if theirs.startswith("#") and theirs[1:].isdigit() and theirs not in header:
            place = int(theirs[1:]) - 1
            if not 0 <= place < len(header):
                raise DataError(f"{path} has {len(header)} columns, so none is {theirs} for {ours}")
            found[ours] = place
            continue
        same = [place for place, name in enumerate(header) if name == theirs]
        alike = [place for place, name in enumerate(header) if name.lower() == theirs.lower()]
        if len(same) > 1:
            raise DataError(
                f"{path} has the column {theirs!r} more than once; rename one of them, or give its place "
                f"with the columns option, as {ours}=#{same[-1] + 1}"
            )
        if same:
            found[ours] = same[0]
        elif len(alike) == 1:
            found[ours] = alike[0]
            name = header[alike[0]]
            flag = "notes" if not layout.is_log else "clicks"
            report.add(
                "column in other letters",
                path.name,
                1,
                name,
                f"read as {ours}",
                f"--{flag}-column {shlex.quote(f'{ours}={name}')}",
            )
    _require(list(found), header, layout, options, path, delimited=delimited)
    return found


def _require(
    found: Sequence[str],
    present: list[str],
    layout: Layout,
    options: ReadOptions,
    path: Path,
    *,
    delimited: bool,
) -> None:
    """Refuse a file that lacks a column that is needed, or that an option names."""
    shown = ", ".join(map(repr, present))
    for ours, theirs in options.columns.items():
        if ours not in found:
            raise DataError(
                f"{path} has no column {theirs!r}, which the columns option names for {ours}; its columns "
                f"are {shown}{did_you_mean(theirs, present)}"
            )
    for group in layout.needed:
        if not set(group) & set(found):
            same = [each for each in present if each.lower() == group[0].lower()]
            near = same[0] if same else "THE_FILES_NAME"
            more = f"; without a header line, with --no-header and {group[0]}=#1" if delimited else ""
            if delimited and len(present) == 1:
                more += "; --separator says what is between cells, if that is not known"
            raise DataError(
                f"{path} has no column {' or '.join(map(repr, group))}; its columns are {shown}; rename one "
                f"or say which it is with the columns option, as {group[0]}={near}{more}"
            )


def _read_parquet(
    path: Path, layout: Layout, options: ReadOptions, report: Report
) -> tuple[pa.Table, list[str]]:
    try:
        names = pq.read_schema(path).names
        columns = {}
        plain_options = {
            ours: theirs for ours, theirs in options.columns.items() if theirs in names or "." not in theirs
        }
        paths = {
            ours: theirs.split(".") for ours, theirs in options.columns.items() if ours not in plain_options
        }
        heads = {ours: steps[0] for ours, steps in paths.items()}
        named = replace(options, columns=plain_options | heads)
        places = _places(names, layout, named, path, report, delimited=False)
        wanted = {ours: names[place] for ours, place in places.items()}
        read = list(dict.fromkeys(wanted.values()))
        texts = [name for name in read if _is_text(pq.read_schema(path).field(name).type)]
        # Repeated texts, such as ids of a log, are kept as codes.
        with pq.ParquetFile(path, read_dictionary=texts if layout.is_log else []) as file:
            table = file.read(read) if options.rows is None else _beginning(file, read, options.rows)
        table.validate(full=True)  # otherwise text that is not UTF-8 fails later
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    for ours, theirs in wanted.items():
        columns[ours] = table.column(theirs)
        if ours in paths:
            cells = NestedCells(layout.roles[ours], ours, f"{path.name}: {theirs}")
            values = [at_path(value, paths[ours][1:]) for value in columns[ours].to_pylist()]
            columns[ours] = pa.chunked_array([pa.array(map(cells.flat, values), pa.large_string())])
            cells.report(report)
    if not table.num_rows and not layout.is_log:
        raise DataError(f"{path} has no rows")
    report.add("no rows", path.name, int(not table.num_rows), "", "an empty table")
    return pa.table(columns), names


def _beginning(file: pq.ParquetFile, columns: list[str], rows: int) -> pa.Table:
    """Return the first rows of a Parquet file without reading the others."""
    batches: list[pa.RecordBatch] = []
    for batch in file.iter_batches(batch_size=rows, columns=columns):
        batches.append(batch)
        if sum(each.num_rows for each in batches) >= rows:
            break
    if not batches:
        return file.read(columns)
    return pa.Table.from_batches(batches).slice(0, rows)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
