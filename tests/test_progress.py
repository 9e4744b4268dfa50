import io
import sys

from notellm import progress
from notellm.progress import line_of, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def state(**changes):
    return {
        "n": 1_280,
        "total": 5_766,
        "initial": 0,
        "elapsed": 8.0,
        "rate": 160.0,
        "prefix": "embed",
        "unit": "note",
        "unit_scale": False,
    } | changes


def test_a_line_has_rate_and_remaining_time():
    assert line_of(state()) == "embed: 1,280 of 5,766 (22 %), 160 note/s, 00:28 left"
    assert line_of(state(n=5_766)) == "embed: 5,766 of 5,766 (100 %), 160 note/s, 00:08 gone"
    assert line_of(state(total=None, prefix="")) == "1,280 note, 160 note/s, 00:08 gone"
    resumed = line_of(state(rate=None, initial=1_200))
    assert "10.0 note/s" in resumed  # what a killed run has left does not count for the rate
    assert line_of(state(n=2_000_000, total=4_000_000, unit="B", unit_scale=True)).startswith(
        "embed: 2.00M of 4.00M (50 %)"
    )


def test_short_work_writes_nothing_where_there_is_no_terminal(capsys):
    with progress_bar(total=100, unit="note", desc="embed") as bar:
        for number in range(100):
            bar.update(1)
            bar.set_postfix(number=number)  # asks for a drawing
            bar.refresh()
    assert list(progress_bar([1, 2, 3], desc="few")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_long_work_writes_whole_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress_bar(total=4, unit="note", desc="embed") as bar:
        for _ in range(4):
            bar.update(1)
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert [line.split(" (")[0] for line in lines[:2]] == ["embed: 1 of 4", "embed: 2 of 4"]
    assert lines[-1].startswith("embed: 4 of 4 (100 %)")
    assert len(lines) == 4
    assert "\r" not in written


def test_hidden_work_writes_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress_bar(total=2, disable=True) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=2, desc="embed", file=stream) as bar:
        bar.update(2)
    assert "\r" in stream.getvalue()
    assert "100%" in stream.getvalue()
