"""Which files a version of a table needs: what the reader says is what LanceDB wrote."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")

from notellm.store.manifest import ManifestReader, TornError
from notellm.store.notes import NoteStore
from tests.store.test_notes import DIM, ONE, batch


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The folder of a table with several data files, deletions and an index."""
    store = NoteStore.create(tmp_path_factory.mktemp("manifest") / "store", ONE, [batch(10)], dim=DIM)
    store.write(batch(3, start=20), new=True)
    store.write(batch(3, start=8))
    store.delete(["n1", "n21"])
    store._untidy = 0
    store.close()
    return Path(store.uri) / f"notes_{ONE}.lance"


@pytest.fixture
def reader(table):
    return ManifestReader(table)


def test_versions_are_numbered_newest_first(reader, table):
    numbers = list(reader.numbered())
    assert numbers == list(range(5, 0, -1))
    assert [reader.read(path, number).number for number, path in reader.numbered().items()] == numbers
    assert reader.path(3) == reader.numbered()[3]
    times = [reader.read(path, number).written_at for number, path in reader.numbered().items()]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(reader.path(5).stat().st_mtime, abs=60)
    assert ManifestReader(table.with_name("none")).numbered() == {}


def test_the_files_are_those_on_the_disk_with_their_sizes(reader, table):
    version = reader.read(reader.path(5), 5)
    on_disk = {path.relative_to(table).as_posix(): path.stat().st_size for path in table.rglob("*.*")}
    named = {**version.data, **version.index, **version.transaction}
    assert named.keys() <= on_disk.keys()
    assert all(size in (None, on_disk[name]) for name, size in named.items())
    assert {name: on_disk[name] for name in named if name.endswith(".lance")} == {
        name: size for name, size in named.items() if name.endswith(".lance")
    }
    # This is all there is but the files of former versions: other transactions, and a replaced deletion file.
    left = {name.split("/")[0] for name in on_disk.keys() - named.keys()}
    assert left == {"_versions", "_transactions", "_deletions"}
    assert sum(name.startswith("_deletions") for name in named) == 2


def test_each_commit_adds_files_and_takes_none_away(reader):
    before: dict[str, int | None] = {}
    for number in (1, 2, 3):
        now = reader.read(reader.path(number), number).data
        assert before.keys() <= now.keys()
        before = now
    assert len(before) == 2


def test_what_is_read_after_another_manifest_is_what_is_read_alone(reader, table):
    for number in (3, 5, 4, 1, 5):
        path = reader.path(number)
        assert reader.read(path, number) == ManifestReader(table).read(path, number)


def test_earlier_names_of_manifests(reader, tmp_path):
    (tmp_path / "_versions").mkdir()
    for number in (1, 2, 11):
        (tmp_path / "_versions" / f"{number}.manifest").write_bytes(reader.path(5).read_bytes())
    (tmp_path / "_versions" / "3.manifest#1").touch()
    earlier = ManifestReader(tmp_path)
    assert list(earlier.numbered()) == [11, 2, 1]
    assert earlier.path(2).name == "2.manifest"
    with pytest.raises(TornError, match=r"2\.manifest is the manifest of version 5, not of 2"):
        earlier.read(earlier.path(2), 2)


def test_an_index_that_does_not_list_its_files_has_all_of_its_folder(reader, table, monkeypatch):
    listed = reader.read(reader.path(5), 5).index
    monkeypatch.setattr("notellm.store.manifest._INDEX_FILES", 99)
    found = ManifestReader(table).read(reader.path(5), 5).index
    assert found == dict.fromkeys(listed)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_anything_else_is_torn(reader, tmp_path, data):
    good = bytearray(reader.path(5).read_bytes())
    kind = data.draw(st.sampled_from(["cut", "random", "zeros", "flipped"]))
    if kind == "cut":
        bad = bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    elif kind == "random":
        bad = data.draw(st.binary(max_size=200)) + bytes(good[-16:]) * data.draw(st.booleans())
    elif kind == "zeros":
        bad = bytes(len(good))
    else:
        good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        bad = bytes(good)
    path = tmp_path / "some.manifest"
    path.write_bytes(bad)
    try:
        ManifestReader(tmp_path).read(path, 5)
    except TornError:
        return
    assert kind == "flipped"  # many bits name no file


def test_no_flipped_bit_is_another_error(reader, tmp_path):
    good = reader.path(5).read_bytes()
    path = tmp_path / "some.manifest"
    torn = 0
    for place in range(len(good)):
        for bit in (0, 3, 6):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            try:
                ManifestReader(tmp_path).read(path, 5)
            except TornError:
                torn += 1
    assert torn > 100


@pytest.mark.parametrize("name", [b"", b"..", b"../../x", b"a/b", b"a\\b"])
def test_names_that_lead_elsewhere_are_no_files_of_a_table(tmp_path, name):
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    message = field(2, field(2, field(1, name))) + bytes([3 << 3, 5])
    content = struct.pack("<I", len(message)) + message + struct.pack("<QHH4s", 0, 0, 2, b"LANC")
    path = tmp_path / "some.manifest"
    path.write_bytes(content)
    with pytest.raises(TornError, match="is not a whole manifest"):
        ManifestReader(tmp_path).read(path, 5)
