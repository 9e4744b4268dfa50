"""A local store after a power failure, with torn or damaged files, and with a disk that fails."""

import errno
import json
import logging
import os
import random
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("lancedb")

from filelock import FileLock

from notellm.errors import StorageError
from notellm.store import durable, lance, notes, upkeep
from notellm.store.manifest import DELETIONS, ManifestReader
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote
from notellm.store.tables import versions
from tests.store.disk import ALL_WAYS, Disk
from tests.store.index.contract import NOON, unit
from tests.store.test_notes import DIM, ONE, OTHER, batch, by_id

TABLE = f"notes_{ONE}.lance"
RECORD = f"checksums_{ONE}.jsonl"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def disk(place, monkeypatch):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file is flushed is read from /proc")
    made = Disk(place, monkeypatch)
    yield made
    made.close()


#: LanceDB warns of readers of older versions; these tests have none.
KEEPS_NO_OLDER_VERSION = pytest.mark.filterwarnings("ignore:optimize.cleanup_older_than=0:UserWarning")

#: Writes of all kinds, one after the other.
WRITES = [
    lambda store: store.write(batch(3, start=20), new=True),
    lambda store: store.upsert(
        [StoredNote(note_id="n3", title="anew"), StoredNote(note_id="x", title="y")], unit(2, DIM, seed=8)
    ),
    lambda store: store.delete(["n1", "n21"]),
    lambda store: store.hide(["n2", "x"]),
    lambda store: store.expire(["n4"], NOON),
    lambda store: store.optimize(),
    lambda store: store.write(batch(2, start=30), new=True),
    lambda store: store.optimize(),
]


def content(place, model=ONE):
    """What is in a store that was just opened, and what opening it said."""
    store = NoteStore.open(place, model)
    try:
        return by_id(store), store.report
    finally:
        store.close()


def newest(place, *, model=ONE):
    """Number, manifest and content of the newest version."""
    reader = ManifestReader(place / f"notes_{model}.lance")
    number, path = next(iter(reader.numbered().items()))
    return number, path, reader.read(path, number)


def made(place, *, writes=2):
    """A closed store of n0 to n9 and then n20, n21 ... in a commit each; what it held before the last one."""
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    before = by_id(store)
    for i in range(writes):
        before = by_id(store)
        store.write(batch(1, start=20 + i), new=True)
    store._untidy = 0
    store.close()
    return before


def data_of_write(place, back=0):
    """The data file that came with the newest write, or with one before it."""
    reader = ManifestReader(place / TABLE)
    files = [list(reader.read(path, number).data) for number, path in reader.numbered().items()]
    (name,) = set(files[back]) - set(files[back + 1])
    return place / TABLE / name


# -------------------------------------------------------------------- power failures


def test_every_file_of_a_version_is_flushed_before_it_is_answered(place, disk):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    seen = set()
    for write in [lambda _: None, *WRITES]:
        write(store)
        _, path, version = newest(place)
        files = [path, *(place / TABLE / name for name in (*version.data, *version.index))]
        files += [file for name in version.transaction if (file := place / TABLE / name).is_file()]
        assert [file.name for file in files if not disk.is_safe(file)] == []
        assert disk.is_safe(place / RECORD)
        assert disk.flushed[-1] in (place, place / RECORD)  # last: it says that the others are there
        seen |= {file.parent.name for file in files}
    assert seen >= {"_versions", "data", DELETIONS, "_transactions"}
    store.close()


@KEEPS_NO_OLDER_VERSION
@pytest.mark.parametrize("way", ALL_WAYS)
def test_a_power_failure_leaves_every_acknowledged_write(place, disk, tmp_path, way, monkeypatch):
    monkeypatch.setattr(upkeep, "_KEPT", timedelta(0))  # tidying removes all that it may
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    for write in WRITES:
        write(store)
        wanted = by_id(store)
        found, report = content(disk.left(tmp_path / "left", way))
        assert found == wanted
        assert report == []
    store.close()


@pytest.mark.slow
@KEEPS_NO_OLDER_VERSION
@pytest.mark.parametrize("way", ALL_WAYS)
def test_a_power_failure_amid_a_write_leaves_it_whole_or_not_at_all(place, disk, tmp_path, way, monkeypatch):
    monkeypatch.setattr(upkeep, "_KEPT", timedelta(0))
    monkeypatch.setattr(durable, "_FLUSHES", 1)  # one moment between two flushes
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    moments: list[Path] = []
    for write in WRITES:
        before = by_id(store)
        moments.clear()
        disk.before = lambda: moments.append(disk.left(tmp_path / "left" / str(len(moments)), way))
        write(store)
        disk.before = lambda: None
        after = by_id(store)
        assert len(moments) > 4
        # The first moment is right after LanceDB has written everything; near the end most is on the disk.
        for moment in (moments[0], *moments[1::3], moments[-1]):
            found, _ = content(moment)
            assert found in (before, after)
            assert content(moment) == (found, [])  # what was torn is out of the way
    store.close()


@pytest.mark.slow
def test_a_power_failure_amid_making_a_store_leaves_none_or_all(place, disk, tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_FLUSHES", 1)
    moments: list[Path] = []
    for way in ALL_WAYS:
        shutil.rmtree(place, ignore_errors=True)
        moments.clear()
        disk.before = lambda way=way: moments.append(disk.left(tmp_path / "left" / str(len(moments)), way))
        NoteStore.create(place, ONE, [batch(10)], dim=DIM).close()
        disk.before = lambda: None
        for moment in moments:
            if versions(moment):
                assert content(moment)[0].keys() == {f"n{i}" for i in range(10)}
            store = NoteStore.create(moment, ONE, [batch(3)], dim=DIM)  # nothing is in the way
            assert by_id(store).keys() == {"n0", "n1", "n2"}
            store.close()


def test_without_flushing_nothing_is_flushed(place, disk):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM, sync=False)
    store.write(batch(1, start=20), new=True)
    assert disk.flushed == []
    store.close()
    # What was not flushed then is flushed when the store is opened with it.
    NoteStore.open(place, ONE).close()
    _, path, version = newest(place)
    assert all(disk.is_safe(place / TABLE / name) for name in version.data)
    assert disk.is_safe(path)


def test_what_a_killed_process_did_not_flush_is_flushed_at_opening(place, disk, monkeypatch):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "_keep", lambda _: None)  # killed before
        store.write(batch(1, start=20), new=True)
    assert not disk.is_safe(newest(place)[1])
    store._untidy = 0
    store.close()
    again = NoteStore.open(place, ONE)
    assert len(again) == 11
    assert disk.is_safe(newest(place)[1])
    again.close()


# -------------------------------------------------------------------- torn newest versions


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shortened(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [zeroed, emptied, halved, shortened])
@pytest.mark.parametrize("opening", [lambda place: NoteStore.open(place, ONE), NoteStore.for_reading])
def test_a_torn_newest_manifest_gives_way_to_the_one_before(place, damage, opening, caplog):
    before = made(place)
    _, manifest, _ = newest(place)
    damage(manifest)
    torn = manifest.read_bytes()
    with caplog.at_level(logging.WARNING, "notellm"):
        store = opening(place)
    assert by_id(store) == before
    (said,) = store.report
    assert str(manifest) in said
    assert "the last acknowledged write is lost, and the one before it is the newest now" in said
    assert said in caplog.text
    assert (place / f"torn_{ONE}" / manifest.name).read_bytes() == torn  # nothing is deleted
    store.close()
    again = NoteStore.open(place, ONE)
    assert again.report == []
    again.write(batch(1, start=40))
    again.close()
    assert content(place)[0].keys() == before.keys() | {"n40"}


@pytest.mark.parametrize("damage", [emptied, halved, shortened, Path.unlink])
def test_a_newest_version_without_its_data_gives_way_to_the_one_before(place, damage):
    before = made(place)
    file = data_of_write(place)
    damage(file)
    found, (said,) = content(place)
    assert found == before
    assert str(file) in said
    assert content(place) == (before, [])


def test_a_milvus_collection_does_not_outlive_the_write_that_it_got(place):
    made(place)
    marker = place / f"milvus_{ONE}.json"
    marker.write_text("{}")
    emptied(newest(place)[1])
    content(place)
    assert not marker.exists()


def test_a_write_that_was_never_acknowledged_is_undone_where_it_is_torn(place, monkeypatch):
    made(place)
    store = NoteStore.open(place, ONE)
    wanted = by_id(store)
    monkeypatch.setattr(NoteStore, "_keep", lambda _: None)
    store.write(batch(1, start=40), new=True)
    store.write(batch(1, start=41), new=True)
    store._untidy = 0
    store.close()
    monkeypatch.undo()
    zeroed(data_of_write(place, back=1))  # its size is right, and no checksum is known
    found, (said,) = content(place)
    assert found == wanted
    assert "a write that was never acknowledged has been undone, and all acknowledged ones are there" in said


def test_a_write_that_was_never_acknowledged_is_undone_where_lancedb_cannot_read_it(place, monkeypatch):
    made(place)
    store = NoteStore.open(place, ONE)
    wanted = by_id(store)
    monkeypatch.setattr(NoteStore, "_keep", lambda _: None)
    store.delete(["n3"])
    store._untidy = 0
    store.close()
    monkeypatch.undo()
    (file,) = (place / TABLE / DELETIONS).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:8] + b"x" * (len(whole) - 16) + whole[-8:])  # its size and its ending are right
    found, (said,) = content(place)
    assert found == wanted
    assert "cannot be read" in said


# -------------------------------------------------------------------- damage


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flipped, zeroed, emptied, halved, Path.unlink])
@pytest.mark.parametrize("writes", [3, 4])
def test_damage_to_data_that_older_versions_need_is_told_and_nothing_is_undone(place, damage, writes):
    made(place, writes=writes)
    file = data_of_write(place, back=2)
    damage(file)
    was_there = sorted(path.name for path in (place / TABLE).rglob("*"))
    for opening in (lambda: NoteStore.open(place, ONE), lambda: NoteStore.for_reading(place)):
        with pytest.raises(StorageError) as caught:
            opening()
        assert str(caught.value).startswith(str(file))
        assert "the store is damaged; restore it from a backup, or remove it and build" in str(caught.value)
    assert sorted(path.name for path in (place / TABLE).rglob("*")) == was_there


@pytest.mark.parametrize("back", [0, 1])
def test_a_flipped_bit_in_data_is_told_with_its_file(place, back):
    made(place)
    file = data_of_write(place, back=back)
    flipped(file)
    for opening in (lambda: NoteStore.open(place, ONE), lambda: NoteStore.for_reading(place)):
        with pytest.raises(
            StorageError, match=r"has the checksum [0-9a-f]{8}, not [0-9a-f]{8} as it was wri"
        ):
            opening()


def test_a_flipped_bit_in_a_deletion_file_is_told(place):
    made(place)
    store = NoteStore.open(place, ONE)
    store.delete(["n3"])
    store._untidy = 0
    store.close()
    (file,) = (place / TABLE / DELETIONS).iterdir()
    flipped(file)
    with pytest.raises(StorageError, match=r"\.arrow has the checksum"):
        NoteStore.open(place, ONE)


def test_two_lost_acknowledged_writes_are_not_undone(place):
    made(place, writes=3)
    for path in list(ManifestReader(place / TABLE).numbered().values())[:2]:
        emptied(path)
    with pytest.raises(StorageError, match=r"\.manifest has 0 bytes, not .*: the store is damaged"):
        NoteStore.open(place, ONE)


def test_vectors_that_are_not_of_unit_length_are_told(place):
    made(place)
    (place / RECORD).unlink()  # as in a store that an earlier version made
    store = NoteStore.open(place, ONE)
    raw = unit(1, DIM, seed=21)[0].tobytes()
    (file,) = [f for f in (place / TABLE / "data").iterdir() if raw in f.read_bytes()]
    file.write_bytes(file.read_bytes().replace(raw, (2 * unit(1, DIM, seed=21)[0]).tobytes()))
    with pytest.raises(
        StorageError, match="is damaged: the vector of the note 'n21' has the length 2, not 1; "
    ):
        store.read()
    store.close()


@pytest.mark.parametrize("damage", [flipped, halved, Path.unlink])
def test_a_damaged_index_of_ids_is_made_anew(place, damage):
    made(place)
    for name in newest(place)[2].index:
        damage(place / TABLE / name)
    store = NoteStore.open(place, ONE)
    (said,) = store.report
    assert "the index of ids was built again" in said
    assert store.get(["n3"]).num_rows == 1
    store.upsert([StoredNote(note_id="n3", title="anew")], unit(1, DIM))
    assert len(store) == 12
    store.close()
    assert content(place)[1] == []


def test_damaged_manifests_are_one_error_or_a_fallback_and_never_a_traceback(place):
    before = made(place)
    whole = content(place)[0]
    (place / RECORD).unlink()  # nothing but the manifest itself tells that it is damaged
    _, manifest, _ = newest(place)
    draw = random.Random(3)
    good = manifest.read_bytes()
    kept = place.with_name("kept")
    shutil.copytree(place, kept)
    outcomes, said = set(), []
    for _ in range(25):
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        bad = bytearray(good)
        for _ in range(draw.choice([1, 20])):
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        manifest.write_bytes(bad)
        try:
            found, report = content(place)
        except StorageError as error:
            outcomes.add("error")
            said.append(str(error))
        else:
            outcomes.add("fallback" if report else "unharmed")
            assert found in (before, whole)
    assert outcomes >= {"fallback"}
    assert all(str(place) in text and ".rs:" not in text for text in said)


def test_a_panic_of_lancedb_is_an_error_of_the_store():
    class PanicException(BaseException):
        pass

    with (
        pytest.raises(StorageError, match=r"^the store here cannot be used: index 9 out of range$"),
        lance.storage_errors("here"),
    ):
        raise PanicException("index 9 out of range, /home/x/lance-1.0/src/dataset.rs:804:43")
    with pytest.raises(KeyboardInterrupt), lance.storage_errors("here"):
        raise KeyboardInterrupt


# -------------------------------------------------------------------- the record of checksums


def test_a_store_without_checksums_gets_them(place):
    made(place)
    (place / RECORD).unlink()
    found, report = content(place)
    assert report == []
    _, manifest, version = newest(place)
    lines = [json.loads(line) for line in (place / RECORD).read_text().splitlines()]
    names = {manifest.relative_to(place / TABLE).as_posix(), *version.data, *version.index}
    assert {line["file"] for line in lines} >= names
    flipped(data_of_write(place))
    with pytest.raises(StorageError, match="has the checksum"):
        NoteStore.open(place, ONE)
    assert len(found) == 12


def test_a_store_without_checksums_loses_its_last_torn_write_and_no_more(place):
    before = made(place, writes=3)
    (place / RECORD).unlink()
    emptied(newest(place)[1])
    found, (said,) = content(place)
    assert found == before
    assert "the last 1 writes are lost; nothing tells whether they were acknowledged" in said


def test_a_store_without_checksums_is_not_undone_far_back(place, monkeypatch):
    made(place, writes=3)
    (place / RECORD).unlink()
    monkeypatch.setattr(durable, "_WINDOW", 0.0)
    file = data_of_write(place, back=2)
    emptied(file)
    with pytest.raises(StorageError, match=f"{file.name} has 0 bytes"):
        NoteStore.open(place, ONE)


@pytest.mark.parametrize("damage", [halved, shortened, zeroed, emptied])
def test_a_damaged_record_of_checksums_loses_nothing(place, damage):
    made(place, writes=4)
    wanted = content(place)[0]
    damage(place / RECORD)
    store = NoteStore.open(place, ONE)
    assert store.report == []
    assert by_id(store) == wanted
    store.write(batch(1, start=50))
    store.close()
    found, report = content(place)
    assert (found.keys(), report) == (wanted.keys() | {"n50"}, [])
    flipped(place / TABLE / next(iter(newest(place)[2].data)))
    with pytest.raises(StorageError, match="has the checksum"):
        NoteStore.open(place, ONE)


@KEEPS_NO_OLDER_VERSION
def test_the_record_forgets_files_that_are_gone(place, monkeypatch):
    monkeypatch.setattr(upkeep, "_KEPT", timedelta(0))
    monkeypatch.setattr(durable.TableFiles, "age", lambda *_: timedelta(0))
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    for i in range(20):
        store.write(batch(1, start=20 + i), new=True)
    monkeypatch.undo()
    long = len((place / RECORD).read_text().splitlines())
    monkeypatch.setattr(upkeep, "_KEPT", timedelta(microseconds=1))
    monkeypatch.setattr(durable.TableFiles, "age", lambda *_: timedelta(microseconds=1))
    store.optimize()
    store.optimize()
    names = [json.loads(line)["file"] for line in (place / RECORD).read_text().splitlines()]
    assert len(names) < long
    assert all((place / TABLE / name).is_file() for name in names)
    store.close()
    assert len(content(place)[0]) == 30


# -------------------------------------------------------------------- disks that fail


def refusing(monkeypatch, pattern, number=errno.EIO):
    """Flushing the first file whose path has this in it fails."""
    failed: list[str] = []
    fsync = os.fsync

    def failing(handle):
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if re.search(pattern, path) and not failed:
            failed.append(path)
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    return failed


@pytest.mark.parametrize(
    "pattern", ["/data/", "/data$", "_versions/", "_versions$", "_transactions/", "/checksums_"]
)
def test_a_write_that_cannot_be_flushed_is_not_acknowledged_and_the_next_one_flushes_both(
    place, disk, monkeypatch, pattern
):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    with monkeypatch.context() as patch:
        failed = refusing(patch, pattern)
        with pytest.raises(StorageError, match=r"the store .* cannot be used: .*Input/output error"):
            store.write(batch(1, start=20), new=True)
        assert failed
        assert store.get(["n20"]).num_rows == 1  # it is there, and get() tells
        inodes = {path: path.stat().st_ino for path in (place / RECORD, *(place / TABLE / "data").iterdir())}
        store.write(batch(1, start=21), new=True)
    _, path, version = newest(place)
    assert all(disk.is_safe(place / TABLE / file) for file in version.data)
    assert disk.is_safe(path)
    assert disk.is_safe(place / RECORD)
    # Flushing the same file again would prove nothing.
    again = [path.name for path, inode in inodes.items() if path.stat().st_ino != inode]
    assert len(again) == (pattern in ("/data/", "/checksums_"))
    assert (RECORD in again) == (pattern == "/checksums_")
    assert len(store) == 12
    store.close()
    assert content(place)[1] == []


def test_a_failed_tidying_is_no_part_of_a_write(place, monkeypatch, caplog):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    asked: list[int] = []

    def full(self):
        asked.append(len(self))
        raise StorageError("No space left on device")

    monkeypatch.setattr(notes, "_TIDIED_AT", 4)
    store._tidied_at = 4
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "notellm"):
        patch.setattr(NoteStore, "optimize", full)
        for i in range(40):
            store.write(batch(1, start=20 + i), new=True)
    assert asked == [14, 22, 38]  # it is tried again after 8 writes, then after 16: more and more seldom
    assert "was not tidied, which will be tried again later: No space left on device" in caplog.text
    assert len(store) == 50
    done: list[None] = []
    optimize = NoteStore.optimize
    monkeypatch.setattr(NoteStore, "optimize", lambda self: done.append(optimize(self)))
    for i in range(48):
        store.write(batch(1, start=70 + i), new=True)
    assert len(done) > 1  # once it works, as often as before
    store.close()


def test_tidying_is_left_alone_where_the_disk_has_no_room_for_it(place, monkeypatch):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    monkeypatch.setattr(upkeep, "_ROOM", 1 << 62)
    with pytest.raises(StorageError, match=r"the disk of the store .* MiB left; tidying needs .* make room"):
        store.optimize()
    store.write(batch(1, start=20))
    store.close()
    monkeypatch.undo()
    assert len(content(place)[0]) == 11


def test_whether_the_disk_takes_anything_is_found_out(place, monkeypatch):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    store.check_disk()
    refusing(monkeypatch, "/.tmpprobe", errno.ENOSPC)
    with pytest.raises(StorageError, match="No space left on device"):
        store.check_disk()
    assert list((place / TABLE).rglob(".tmp*")) == []
    store.close()


def test_former_files_are_dropped_only_when_what_replaces_them_is_on_the_disk(place, monkeypatch):
    monkeypatch.setattr(upkeep, "_KEPT", timedelta(microseconds=1))
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    for i in range(5):
        store.write(batch(1, start=20 + i), new=True)
    _, manifest, version = newest(place)
    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "_keep", lambda _: None)  # the power goes before it is flushed
        store.optimize()
    assert newest(place)[1] != manifest
    assert manifest.is_file()
    assert all((place / TABLE / name).is_file() for name in version.data)
    store.close()


def test_a_store_that_cannot_be_written_to_says_so(place, monkeypatch):
    made(place)

    def readonly(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(FileLock, "acquire", readonly)
    with pytest.raises(StorageError, match=r"cannot write to the store .*: Read-only file system"):
        NoteStore.open(place, ONE)
    assert len(NoteStore.for_reading(place)) == 12
    emptied(newest(place)[1])
    with pytest.raises(StorageError, match="Read-only file system"):
        NoteStore.for_reading(place)


def test_two_tables_have_records_of_their_own(place):
    store = NoteStore.create(place, ONE, [batch(10)], dim=DIM)
    other = NoteStore.create(place, OTHER, [batch(4)], dim=DIM)
    other.drop_others()
    assert sorted(p.name for p in place.iterdir()) == [
        ".writer.lock", f"checksums_{OTHER}.jsonl", f"notes_{OTHER}.lance",
    ]  # fmt: skip
    with pytest.raises(StorageError, match=r"has no vectors of the model .* any more"):
        store.drop_others()
    assert len(other) == 4
    other.close()
