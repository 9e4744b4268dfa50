"""Where an index lies between two runs: what is opened holds what the store does, whatever happened."""

import json
from itertools import count

import numpy as np
import pytest

pytest.importorskip("faiss")

from notellm.errors import ConfigError, StorageError
from notellm.files import read_json
from notellm.store.index.hnsw import HnswIndex
from notellm.store.index.home import IndexHome
from notellm.store.index.milvus import MilvusIndex
from notellm.store.rows import StoredNote, rows_of
from tests.store.index.contract import unit

DIM = 8
MODEL = "0123456789abcdef"


def rows(names, seed=0, **columns):
    return rows_of(
        [StoredNote(note_id=name, title=name, **columns) for name in names], unit(len(names), DIM, seed)
    )


def holds(index, table):
    """Whether an index finds each note by its vector, and nothing else."""
    names = table.column("note_id").to_pylist()
    vectors = np.array(table.column("vector").to_pylist(), np.float32).reshape(-1, DIM)
    ids, _ = index.search(vectors, len(names) + 5)
    return (
        len(index) == len(names)
        and all(own[0] == name and sorted(own) == sorted(names) for own, name in zip(ids, names, strict=True))
        and np.allclose(index.vectors(names), vectors, atol=1e-6)
    )


OLD = rows([f"n{i}" for i in range(20)])
NEW = rows([f"n{i}" for i in range(5, 30)], seed=1)  # some gone, some others, all of another vector


@pytest.fixture
def builds(monkeypatch):
    """The indexes that are built from nothing."""
    made = []
    build = IndexHome.build

    def watched(self, *args, **kwargs):
        made.append(build(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(IndexHome, "build", watched)
    return made


@pytest.mark.parametrize("kind", ["exakt", "", "faiss", "milvus"])
def test_an_unknown_kind(tmp_path, kind):
    with pytest.raises(
        ConfigError, match=f"the index is '{kind}'; allowed are exact, hnsw, or the URI of a Milvus server"
    ):
        IndexHome(str(tmp_path), MODEL, kind)


def test_exact_search_leaves_nothing_on_disk(tmp_path, builds):
    home = IndexHome(str(tmp_path), MODEL, "exact")
    for number, table in enumerate((OLD, NEW), 1):
        index = home.open(table)
        assert holds(index, table)
        home.close(index)
        assert len(builds) == number
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- hnsw


@pytest.fixture
def hnsw(tmp_path):
    return IndexHome(str(tmp_path), MODEL, "hnsw")


@pytest.fixture
def folder(tmp_path):
    """Where the graph lies."""
    return tmp_path / f"index_{MODEL}"


def test_a_graph_is_built_once_and_saved_at_once(hnsw, folder, builds):
    index = hnsw.open(OLD)
    assert isinstance(index, HnswIndex)
    assert holds(index, OLD)
    assert index.recall == {"k": 100, "queries": 20, "recall": 1}
    assert sorted(path.name for path in folder.iterdir()) == [
        "graph.faiss",
        "index.json",
        "manifest.json",
        "rows.parquet",
    ]
    again = hnsw.open(OLD)  # nobody closed the first: a process was killed
    assert holds(again, OLD)
    assert again.recall == index.recall
    assert len(builds) == 1


def test_a_graph_is_brought_up_to_date_with_the_store(hnsw, builds):
    hnsw.close(hnsw.open(OLD))
    index = hnsw.open(NEW)
    assert holds(index, NEW)
    assert index.dead_share() == pytest.approx(20 / 45)
    hidden = rows(["n5", "x"], seed=7, hidden=True)
    index.upsert(hidden)
    hnsw.close(index)
    later = hnsw.open(hidden)
    assert later.contains(["n5", "x", "n6"]).tolist() == [True, True, False]
    assert later.search(unit(1, DIM), 5)[0] == [[]]
    assert len(builds) == 1


@pytest.mark.parametrize("name", ["graph.faiss", "rows.parquet", "index.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_graph_is_built_anew(hnsw, folder, builds, name, damage):
    hnsw.close(hnsw.open(OLD))
    path = folder / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"something else")
    assert holds(hnsw.open(OLD), OLD)
    assert len(builds) == 2
    assert holds(hnsw.open(OLD), OLD)  # and saved again
    assert len(builds) == 2


def test_a_graph_of_another_dimension_is_built_anew(hnsw, folder, builds):
    other = HnswIndex(5)
    other.upsert(rows_of([StoredNote(note_id="n1")], unit(1, 5)))
    other.write_graph(folder)
    assert holds(hnsw.open(OLD), OLD)
    assert len(builds) == 1


def test_graphs_of_other_models_are_taken_away(hnsw, folder, tmp_path):
    other = IndexHome(str(tmp_path), "f" * 16, "hnsw")
    other.close(other.open(NEW))
    hnsw.close(hnsw.open(OLD))
    assert len(list(tmp_path.glob("index_*"))) == 2
    hnsw.drop_others()
    assert list(tmp_path.glob("index_*")) == [folder]
    IndexHome("s3://bucket/store", MODEL, "hnsw").drop_others()  # nothing lies there


def test_folders_of_others_beside_a_store_are_left_alone(hnsw, tmp_path, caplog):
    hnsw.close(hnsw.open(OLD))
    mine = tmp_path / "index_of_my_thesis" / "chapter.txt"
    mine.parent.mkdir()
    mine.write_text("x")
    other = IndexHome(str(tmp_path), "f" * 16, "hnsw")
    other.close(other.open(NEW))
    also_mine = tmp_path / f"index_{'f' * 16}" / "notes.txt"
    also_mine.write_text("x")
    with caplog.at_level("WARNING", "notellm"):
        hnsw.drop_others()
    assert mine.read_text() == also_mine.read_text() == "x"
    assert caplog.text.count("a folder beside the store is not removed") == 2


def test_an_index_that_cannot_be_saved_answers_all_the_same(hnsw, folder, caplog):
    hnsw.close(hnsw.open(OLD))
    (folder / "graph.faiss").write_text("damaged")
    (folder / "thesis.txt").write_text("x")  # so that the folder may not be replaced
    with caplog.at_level("WARNING", "notellm"):
        index = hnsw.open(OLD)
        assert holds(index, OLD)
        hnsw.close(index)
    assert (folder / "thesis.txt").read_text() == "x"
    assert "the saved index cannot be used and is built again" in caplog.text
    assert (
        caplog.text.count(
            "the index was not saved; unless a later attempt succeeds, the next start builds it"
        )
        == 2
    )


def test_beside_a_store_elsewhere_nothing_is_kept(tmp_path, monkeypatch, builds):
    monkeypatch.chdir(tmp_path)
    home = IndexHome("memory://store", MODEL, "hnsw")
    home.close(home.open(OLD))
    assert holds(home.open(OLD), OLD)
    assert len(builds) == 2
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- Milvus


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One Milvus Lite for all tests; each has a model of its own."""
    pytest.importorskip("milvus_lite")
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path_factory.mktemp("milvus") / "lite.db")
    yield path
    server_manager_instance.release_server(path)


models = (f"{number:016x}" for number in count())


@pytest.fixture
def milvus(tmp_path, uri):
    return IndexHome(str(tmp_path), next(models), uri)


@pytest.fixture
def marker(tmp_path, milvus):
    return tmp_path / f"milvus_{milvus.fingerprint}.json"


def test_a_collection_closed_in_order_is_opened_as_it_was(milvus, marker, builds):
    index = milvus.open(OLD)
    assert holds(index, OLD)
    assert not marker.exists()
    index.remove(["n0", "n1", "n2", "n3", "n4"])
    index.upsert(NEW)
    milvus.close(index)
    assert read_json(marker) == {"collection": f"notes_{milvus.fingerprint}_a"}
    again = milvus.open(NEW)
    assert holds(again, NEW)
    assert len(builds) == 1
    assert not marker.exists()  # what happens from now on nobody knows until it is closed
    again.close()


def test_a_marker_that_was_taken_away_does_not_come_back_after_a_power_failure(milvus, marker, monkeypatch):
    milvus.close(milvus.open(OLD))
    flushed = []
    monkeypatch.setattr(
        "notellm.store.index.milvus.sync_folder", lambda folder: flushed.append((folder, marker.exists()))
    )
    milvus.open(OLD).close()
    assert flushed == [(marker.parent, False)]


def test_a_marker_that_cannot_be_written_is_no_failure(milvus, builds, monkeypatch, caplog):
    def full(*_, **__):
        raise StorageError("the disk is full")

    index = milvus.open(OLD)
    with monkeypatch.context() as patch, caplog.at_level("WARNING", "notellm"):
        patch.setattr("notellm.store.index.milvus.write_json", full)
        milvus.close(index)
    assert "the next start builds it: the disk is full" in caplog.text
    again = milvus.open(OLD)
    assert holds(again, OLD)
    assert len(builds) == 2
    again.close()


def test_without_the_marker_a_collection_is_built_anew(milvus, marker, builds):
    first = milvus.open(OLD)
    first.close()  # a kill: no marker
    # As many notes as before, and yet other ones.
    table = rows([f"other {i}" for i in range(20)], seed=3)
    index = milvus.open(table)
    assert holds(index, table)
    milvus.close(index)
    assert len(builds) == 2
    assert marker.exists()


def test_a_collection_that_has_missed_something_is_built_anew(milvus, builds):
    milvus.close(milvus.open(OLD))
    index = milvus.open(NEW)
    assert holds(index, NEW)
    assert len(builds) == 2
    milvus.close(index)


def test_a_marker_of_a_collection_that_is_gone(milvus, marker, builds):
    index = milvus.open(OLD)
    milvus.close(index)
    marker.write_text(json.dumps({"collection": f"notes_{milvus.fingerprint}_b"}))
    index = milvus.open(OLD)
    assert holds(index, OLD)
    assert len(builds) == 2
    index.close()


def test_a_new_collection_is_built_beside_the_one_that_answers(milvus, marker):
    first = milvus.open(OLD)
    second = milvus.build(NEW, current=first)
    assert isinstance(first, MilvusIndex)
    assert isinstance(second, MilvusIndex)
    assert holds(first, OLD)
    assert holds(second, NEW)
    third = milvus.build(OLD, current=second)
    names = [f"notes_{milvus.fingerprint}_{letter}" for letter in "aba"]
    assert [first.collection, second.collection, third.collection] == names
    milvus.close(second)
    assert read_json(marker) == {"collection": names[1]}
    again = milvus.open(NEW)
    assert again.collection == names[1]
    assert holds(again, NEW)
    again.close()
    third.close()


def test_rows_in_several_pieces(milvus, monkeypatch):
    monkeypatch.setattr("notellm.store.index.milvus._BUILD_ROWS", 7)
    index = milvus.open(OLD)
    assert holds(index, OLD)
    index.close()


def test_saving_and_dropping_leave_a_collection_alone(milvus, tmp_path):
    index = milvus.open(OLD)
    milvus.save(index)
    milvus.drop_others()
    assert list(tmp_path.iterdir()) == []
    assert holds(index, OLD)
    index.close()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_marker_is_none(milvus, marker, builds, content):
    milvus.close(milvus.open(OLD))
    marker.write_text(content)
    index = milvus.open(OLD)
    assert holds(index, OLD)
    assert len(builds) == 2
    milvus.close(index)
    assert read_json(marker) == {"collection": f"notes_{milvus.fingerprint}_a"}
