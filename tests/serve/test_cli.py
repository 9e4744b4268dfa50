"""The commands of the store, and serving a finished demo without running it again."""

import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import notellm.serve.run
from notellm.jobs import demo
from notellm.jobs.folders import save_dataset
from notellm.recall.embed import embed_to_parquet
from notellm.recall.model import NoteLLM
from tests.commands import run
from tests.serve.small import NOTES


def test_a_store_is_shown_and_related_while_a_service_writes_to_it(places, tmp_path, capsys):
    own = places.copied(tmp_path)
    engine = own.engine()
    try:
        assert run("store", "show", own.store) == 0
        assert f"notes      {NOTES}" in capsys.readouterr().out
        table = tmp_path / "i2i.parquet"
        assert run("store", "related", own.store, "-o", table, "-k", 4, "-q") == 0
        assert f"related notes of {NOTES} notes ({NOTES} computed)" in capsys.readouterr().out
        assert pq.read_table(table).num_rows == NOTES
        assert run("store", "related", own.store, "-o", table, "-k", 4, "-q") == 0
        assert "(0 computed)" in capsys.readouterr().out
    finally:
        engine.close()


def test_building_from_a_dataset_with_its_vectors(places, tmp_path, capsys):
    from notellm.data.sample_world import sample_world
    from notellm.data.validate import validate

    world = sample_world(notes=30, users=5, clicks=40, bots=0, seed=1)
    notes, clicks, report = validate(world.notes, world.clicks)
    save_dataset(tmp_path / "data", notes, clicks, report, config={})
    model = NoteLLM.from_pretrained(places.model)
    embed_to_parquet(model, notes, tmp_path / "v.parquet", progress=False)
    build = ("store", "build", tmp_path / "new", "--model", places.model, "-q")
    assert run(*build) == 2
    assert "give the notes that it is to hold" in capsys.readouterr().err
    assert run(*build, "--vectors", tmp_path / "v.parquet") == 2
    assert "--vectors are those of --notes; give both" in capsys.readouterr().err
    assert run(*build, "--notes", tmp_path / "data", "--vectors", tmp_path / "v.parquet") == 0
    assert "30 notes (0 embedded, 0 unchanged)" in capsys.readouterr().out
    assert run(*build, "--notes", tmp_path / "data") == 0
    assert "30 notes (0 embedded, 30 unchanged)" in capsys.readouterr().out
    assert run("store", "show", tmp_path / "nothing") == 2
    assert "is not a store of notes" in capsys.readouterr().err


def test_a_finished_demo_is_served_as_it_is(places, tmp_path, monkeypatch, capsys):
    home = tmp_path / "demo"
    home.mkdir()
    for name in ("model", "ranker"):
        (home / name).symlink_to(getattr(places, name), target_is_directory=True)
    assert not demo.is_finished(home)
    places.copied(home)
    assert demo.is_finished(home)
    served = []

    def serve(engine, **options):
        served.append((len(engine.notes), options["host"], options["port"], bool(options["keys"])))
        options["ready"]()
        engine.close()

    monkeypatch.setattr(notellm.serve.run, "serve", serve)
    monkeypatch.setattr(notellm.serve.run, "open_browser", served.append)
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: pytest.fail("it is there already"))
    assert run("demo", "--serve", "-o", home, "--port", 8765) == 0
    assert served == [(NOTES, "127.0.0.1", 8765, False), "http://127.0.0.1:8765/"]
    assert "open http://127.0.0.1:8765/" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", [["serve", "store", "--model", "m", "--no-keys"], ["demo", "--serve"]])
def test_without_the_extra_it_says_what_to_install(command, tmp_path):
    code = "import sys; sys.modules['uvicorn'] = None; from notellm import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "notellm: the service needs uvicorn: pip install 'notellm[serve]'\n"
    assert list(tmp_path.iterdir()) == []
