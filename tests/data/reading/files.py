"""Write small files, for the tests of this folder."""


def put(folder, name, content):
    """Write text as UTF-8, or bytes, and return the path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problems(report):
    """Return the number of rows by problem, without the columns that are simply not there."""
    return {
        each.problem: each.count for each in report.problems if not each.problem.startswith("no column '")
    }


def found(report, problem):
    """Return the only row of the report with a problem."""
    (row,) = [each for each in report.problems if each.problem == problem]
    return row
