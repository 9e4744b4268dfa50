"""A result replaces a former result and nothing else, and a kill leaves one of the two whole."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from notellm.artifacts.manifest import MANIFEST, check_whole, edited_files, read_contents
from notellm.artifacts.replace import check_file_replaceable, check_replaceable, remove_folder
from notellm.artifacts.workspace import tidy
from notellm.artifacts.write import write_file, write_folder
from notellm.errors import ModelError, StorageError


def make(path, text="text", kind="model", **options):
    with write_folder(path, kind, **options) as folder:
        (folder / "weights").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "config").write_text("{}")
    return Path(path)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_is_replaced_as_a_whole_by_one_of_its_kind(tmp_path):
    target = make(tmp_path / "made", "one")
    with write_folder(target, "model") as folder:
        (folder / "other").write_text("two")
    assert {path.name for path in target.iterdir()} == {"other", MANIFEST}
    assert list(tmp_path.iterdir()) == [target]


def test_the_same_files_make_the_same_bytes(tmp_path):
    one, two = make(tmp_path / "a"), make(tmp_path / "b")
    assert tree(one) == tree(two)
    assert json.loads((one / MANIFEST).read_text())["kind"] == "model"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = make(tmp_path / "made")
    before = tree(target)
    with pytest.raises(ZeroDivisionError), write_folder(target, "model") as folder:  # noqa: PT012 - half-way
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), write_file(tmp_path / "file") as file:  # noqa: PT012 - half-way
        file.write_text("half")
        raise ZeroDivisionError
    assert tree(target) == before
    assert list(tmp_path.iterdir()) == [target]


# -------------------------------------------------------------------- what may be replaced


def foreign_file(folder):
    (folder / "thesis.txt").write_text("x")


def foreign_file_below(folder):
    (folder / "deep" / "down").mkdir(parents=True)
    (folder / "deep" / "down" / "photo.jpg").write_text("x")


def foreign_link(folder):
    (folder / "link").symlink_to("/etc/hostname")


def foreign_link_to_a_folder(folder):
    (folder / "elsewhere").symlink_to("/etc")


def foreign_manifest_only(folder):
    (folder / MANIFEST).write_text('{"name": "a web page", "icons": []}')


FOREIGN = [foreign_file, foreign_file_below, foreign_link, foreign_link_to_a_folder, foreign_manifest_only]


@pytest.mark.parametrize("add", FOREIGN)
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("within", ["a folder of one's own", "a former result"])
def test_files_of_others_are_never_lost(tmp_path, add, force, within):
    target = tmp_path / "p"
    if within == "a former result":
        make(target)  # one whose manifest is overwritten is nobody's
    else:
        target.mkdir()
    add(target)
    before = tree(target)
    with pytest.raises(StorageError, match="did not write there"):
        make(target, force=force)
    with pytest.raises(StorageError, match="did not write there"):
        remove_folder(target, "model")
    assert tree(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_comes_while_a_result_is_made_is_not_lost(tmp_path):
    target = make(tmp_path / "made")
    with pytest.raises(StorageError, match=r"thesis\.txt"), write_folder(target, "model"):
        (target / "thesis.txt").write_text("mine")
    assert (target / "thesis.txt").read_text() == "mine"
    assert (target / "weights").read_text() == "text"


def test_an_edited_file_is_lost_only_by_force(tmp_path):
    target = make(tmp_path / "made", "abc")
    (target / "weights").write_text("abd")  # as long as it was
    with pytest.raises(StorageError, match="weights changed since notellm wrote it"):
        make(target)
    assert (target / "weights").read_text() == "abd"
    make(target, "new", force=True)
    assert (target / "weights").read_text() == "new"


def test_another_kind_is_replaced_only_by_force(tmp_path):
    target = make(tmp_path / "made", kind="dataset")
    with pytest.raises(StorageError, match="a dataset is there"):
        make(target, kind="model")
    make(target, kind="model", force=True)
    assert json.loads((target / MANIFEST).read_text())["kind"] == "model"


def test_an_empty_folder_and_litter_of_the_system_are_in_nobodys_way(tmp_path):
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    (tmp_path / "empty" / ".DS_Store").write_text("x")
    make(tmp_path / "empty", "again")
    assert (tmp_path / "empty" / "weights").read_text() == "again"


@pytest.mark.parametrize("force", [False, True])
def test_root_home_and_working_folder_are_never_replaced(tmp_path, monkeypatch, force):
    home, working = tmp_path / "home" / "me", tmp_path / "work" / "here"
    for folder in (home, working):
        make(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(working)
    for path, reason in (
        ("/", "the root of a file system"),
        (".", "the working folder"),
        (working, "the working folder"),
        ("..", "above the working folder"),
        ("../here/../../work", "above the working folder"),
        (home, "the home folder"),
        (home.parent, "above the home folder"),
    ):
        with pytest.raises(StorageError, match=reason):
            make(path, force=force)
    assert (working / "weights").is_file()
    assert (home / "weights").is_file()


@pytest.mark.parametrize("force", [False, True])
def test_a_mount_point_keeps_what_it_holds(tmp_path, monkeypatch, force):
    mounted = make(tmp_path / "volume", "former model")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mounted)
    with pytest.raises(StorageError, match="it is a mount point; name a new folder within it"):
        make(mounted, force=force)
    assert (mounted / "weights").read_text() == "former model"
    make(mounted / "model")


def test_a_symbolic_link_is_followed(tmp_path):
    real = make(tmp_path / "disk" / "model-3", "old")
    link = tmp_path / "model"
    link.symlink_to(real)
    make(link, "new")
    assert link.is_symlink()
    assert (real / "weights").read_text() == "new"
    (tmp_path / "disk" / "mine.txt").write_text("x")
    (tmp_path / "all").symlink_to(tmp_path / "disk")
    with pytest.raises(StorageError, match="did not write there"):
        make(tmp_path / "all")


def test_a_folder_and_a_file_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="it is a file"):
        make(tmp_path / "file", force=True)
    folder = make(tmp_path / "folder")
    with pytest.raises(StorageError, match="it is a folder"), write_file(folder, "vectors", force=True):
        pass
    with pytest.raises(StorageError, match="cannot write"):
        make(tmp_path / "file" / "below")


def test_a_file_is_replaced_only_by_force_or_by_its_kind(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("mine")
    with pytest.raises(StorageError, match="a file that notellm did not write is there"):
        check_file_replaceable(path, "vectors")
    with pytest.raises(StorageError, match="did not write"), write_file(path, "vectors"):
        pass
    assert path.read_text() == "mine"
    with write_file(path, "vectors", force=True) as new:
        new.write_text("other")
    assert path.read_text() == "other"


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    target = make(tmp_path / "made")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write anywhere
    for check in (
        lambda: check_replaceable(target, "model"),
        lambda: check_replaceable(tmp_path / "new" / "model", "model", force=True),
        lambda: check_file_replaceable(tmp_path / "new.parquet", "vectors"),
    ):
        with pytest.raises(StorageError, match="may not be written to"):
            check()


def test_looking_changes_nothing(tmp_path):
    check_replaceable(tmp_path / "not" / "there", "model")
    check_file_replaceable(tmp_path / "not" / "there", "vectors")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- whole or not


def test_a_folder_is_whole_with_an_edited_card_and_more_files(tmp_path):
    target = make(tmp_path / "made")
    with write_folder(target, "model") as folder:
        (folder / "weights").write_text("text")
        (folder / "README.md").write_text("card")
    (target / "README.md").write_text("a better card")
    (target / "notes.txt").write_text("mine")
    check_whole(target)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: (p / "sub" / "config").unlink(), "lacks sub/config; copy the whole folder again"),
        (
            lambda p: (p / "weights").write_text("texd"),
            "weights is damaged, or is not the file that was saved",
        ),
        (lambda p: (p / "weights").write_text(""), "weights is damaged"),
        (lambda p: (p / MANIFEST).unlink(), "has no whole manifest.json"),
        (lambda p: (p / MANIFEST).write_text("[]"), "has no whole manifest.json"),
        (
            lambda p: edit_manifest(p, {"../a": {"bytes": 1, "sha256": ""}}),
            "names '../a', which is not in its own folder",
        ),
        (
            lambda p: edit_manifest(p, {"/dev/zero": {"bytes": 1, "sha256": ""}}),
            "which is not in its own folder",
        ),
        (lambda p: edit_manifest(p, {"weights": 3}), "has no whole manifest.json"),
        (lambda p: edit_manifest(p, {"sub": {"bytes": 1, "sha256": ""}}), "lacks sub"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path, damage, says):
    target = make(tmp_path / "made")
    damage(target)
    with pytest.raises(ModelError, match=says):
        check_whole(target)


def edit_manifest(folder, files):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": files}))


def test_of_large_files_the_size_is_compared(tmp_path):
    target = make(tmp_path / "made", "x" * 100)
    (target / "weights").write_text("y" * 100)
    check_whole(target, most=50)
    check_whole(target, besides=["weights"])
    with pytest.raises(ModelError, match="weights is damaged"):
        check_whole(target, most=100)
    (target / "weights").write_text("longer" * 100)
    with pytest.raises(ModelError, match="weights is damaged"):
        check_whole(target, most=50)


# -------------------------------------------------------------------- kills

CHILD = """
    import os, signal, sys
    from pathlib import Path
    from notellm.artifacts import workspace
    from notellm.artifacts.write import write_folder

    target, moment = Path(sys.argv[1]), int(sys.argv[2])
    steps = 0

    def counted(name, real):
        def step(*args, **kwargs):
            global steps
            steps += 1
            if steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return step

    for owner, name in ((Path, "rename"), (os, "fsync"), (workspace.shutil, "rmtree"), (Path, "mkdir")):
        setattr(owner, name, counted(name, getattr(owner, name)))
    with write_folder(target, "model") as folder:
        (folder / "weights").write_text("new")
        (folder / "config").write_text("new")
    print("done", steps)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_kill_at_any_step_leaves_one_whole_result_and_a_rerun_tidies_up(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    seen = set()
    for moment in range(1, 40):
        home = tmp_path / str(moment)
        target = make(home / "model", "old")
        done = subprocess.run(
            [sys.executable, str(script), str(target), str(moment)],
            capture_output=True,
            text=True,
            check=False,
        )
        whole = [
            (folder / "weights").read_text()
            for folder in (target, *home.glob(".model.*.part/old"), *home.glob(".model.*.part/new"))
            if (folder / MANIFEST).is_file() and not edited_files(folder, read_contents(folder).listed)
        ]
        assert whole, f"killed at step {moment}: neither the old nor the new result is whole"
        if done.returncode == 0:
            assert done.stdout.startswith("done")
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen.add(target.exists())
        for left in home.glob(".model.*.part"):
            if not any(left.iterdir()):
                os.utime(left, (0, 0))  # a minute later
        make(target, "rerun")  # the next write to the same place
        assert (target / "weights").read_text() == "rerun"
        assert [path.name for path in home.iterdir()] == ["model"], f"left behind at step {moment}"
    else:
        pytest.fail("the child never finished")
    assert seen == {True, False}  # some kills came between the two renames


def left_by_a_kill(home, *, old, new, name="model"):
    work = home / f".{name}.0123456789abcdef.part"
    work.mkdir()
    (work / ".lock").touch()
    for part, there in (("old", old), ("new", new)):
        if there:
            (work / part).mkdir()
            (work / part / "weights").write_text(part)
    return work


@pytest.mark.parametrize(("old", "new", "expected"), [(True, True, "new"), (True, False, "old")])
def test_between_the_renames_the_next_write_first_restores(tmp_path, old, new, expected):
    left_by_a_kill(tmp_path, old=old, new=new)
    tidy(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model.v2", "model.part", "model.run", "other", ".model", "mode"])
def test_what_a_kill_left_of_another_target_is_left_alone(tmp_path, name):
    """Also where its name begins with that of the target: it would end up in the wrong place, or be lost."""
    left = left_by_a_kill(tmp_path, old=True, new=True, name=name)
    before = tree(left)
    make(tmp_path / "model")
    make(tmp_path / "model", "again")
    assert tree(left) == before
    assert (tmp_path / "model" / "weights").read_text() == "again"
    tidy(tmp_path / name)
    assert (tmp_path / name / "weights").read_text() == "new"
    assert not left.exists()


def test_what_a_link_names_is_not_removed(tmp_path):
    target = make(tmp_path / "model")
    (tmp_path / "link").symlink_to(target)
    before = tree(target)
    with pytest.raises(StorageError, match="it is a symbolic link; remove the link yourself"):
        remove_folder(tmp_path / "link", "model")
    assert tree(target) == before


@pytest.mark.parametrize("steps", range(4))
def test_a_removal_that_was_killed_can_be_repeated(tmp_path, monkeypatch, steps):
    target = make(tmp_path / "model")

    def killed(real):
        def step(*args, **options):
            nonlocal steps
            if steps == 0:
                raise KeyboardInterrupt
            steps -= 1
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed(os.unlink))
        patch.setattr(Path, "unlink", killed(Path.unlink))
        with suppress(KeyboardInterrupt):
            remove_folder(target, "model")
    remove_folder(target, "model")
    assert not target.exists()


def test_the_workspace_of_a_living_write_is_left_alone(tmp_path):
    target = make(tmp_path / "model")
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from notellm.artifacts.write import write_folder
        with write_folder(sys.argv[1], "model") as folder:
            (folder / "weights").write_text("slow")
            print("begun", flush=True)
            sys.stdin.readline()
        """)
    )
    slow = subprocess.Popen(
        [sys.executable, str(script), str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "begun\n"
    make(target, "quick")
    assert list(tmp_path.glob(".model.*.part")), "the workspace of the other process was removed"
    slow.communicate("\n")
    assert slow.returncode == 0
    assert (target / "weights").read_text() == "slow"


def test_hidden_folders_of_others_are_not_tidied(tmp_path):
    mine = tmp_path / ".model.aaaaaaaaaaaaaaaa.part"
    mine.mkdir()
    (mine / "thesis").write_text("x")
    half = tmp_path / ".model.bbbbbbbbbbbbbbbb.part"
    half.mkdir()
    (half / ".lock").touch()
    (half / "thesis").write_text("x")
    make(tmp_path / "model")
    assert (mine / "thesis").is_file()
    assert (half / "thesis").is_file()


def test_everything_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    """Each file and folder is flushed before the new result takes its place, and the parent after it."""
    events = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle):
        events.append(("sync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def renamed(self, target):
        events.append(("rename", str(target)))
        return rename(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file is flushed is read from /proc")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    target = make(tmp_path / "model")
    at = events.index(("rename", str(target)))
    before = {Path(path).name for what, path in events[:at] if what == "sync"}
    assert {"weights", "config", "sub", "new", MANIFEST} <= before
    assert ("sync", str(tmp_path)) in events[at:]
