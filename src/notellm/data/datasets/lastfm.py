"""Last.fm of HetRec 2011 (Cantador et al. 2011): artists, and who listened to them.

From one folder: ``artists.dat`` (id, name), ``user_artists.dat`` (userID, artistID, weight, the plays), and
optionally ``tags.dat`` (tagID, tagValue) with ``user_taggedartists.dat`` (userID, artistID, tagID, day,
month, year); tab-separated with header lines, partly UTF-8 and partly Latin-1. An artist is a note: the name
is the title, the tags that most users gave are the topics. There is no other text and no category. A user's
artist who was played at all is one click, however often. There are no times.
"""

from pathlib import Path

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited
from notellm.data.datasets.ratings import liked
from notellm.data.datasets.tags import most_used, topics_of
from notellm.data.problems import Report

_TABS_OF_ARTISTS = 3


def read_lastfm(folder: str | Path) -> RawData:
    """Read Last.fm.

    Args:
        folder: the folder with the files.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "artists.dat")
    artists = _read(path, ("id", "name"), report, tabs=_TABS_OF_ARTISTS)
    notes = artists.select(note_id="id", title="name")
    names, given = (find_file(folder, name, needed=False) for name in ("tags.dat", "user_taggedartists.dat"))
    if names and given:
        tag = _read(names, ("tagID", "tagValue"), report).unique("tagID", keep="first")
        used = _read(given, ("artistID", "tagID"), report).join(tag, on="tagID", maintain_order="left")
        used = used.select(note_id="artistID", tag="tagValue", count=1)
        notes = notes.with_columns(topics=topics_of(notes["note_id"], most_used(used, given.name, report)))
    else:
        report.add("no tags.dat with user_taggedartists.dat", path.name, notes.height, "", "no topics")
    path = find_file(folder, "user_artists.dat")
    played = _read(path, ("userID", "artistID", "weight"), report)
    played = liked(played, 1, path.name, report, column="weight", below="artist never played")
    clicks = played.rename({"userID": "user_id", "artistID": "note_id"})
    return RawData(raw_table(notes.to_dict(), RAW_NOTES), clicks.to_arrow(), report)


def _read(path: Path, names: tuple[str, ...], report: Report, *, tabs: int = 0) -> pl.DataFrame:
    """Read a file; a line with fewer than ``tabs`` tabs gets empty cells, as an artist without a picture."""

    def mend(line: str) -> str:
        text = line.rstrip("\r\n")
        return text + "\t" * (tabs - text.count("\t")) + "\n"

    table = read_delimited(path, names, report, delimiter="\t", quoting=False, latin1=True, mend=mend)
    return pl.DataFrame(table)
