"""What the build of the documentation finds; the build itself is `make docs`."""

from tools.documentation import broken, first_sentence, module_name


def test_links_to_what_is_not_there_are_found(tmp_path):
    pages = {
        "index.html": '<a href="guide/">ok</a> <a href="guide/#there">ok</a> <a href="https://x.invalid/">ok</a>',
        "guide/index.html": '<h2 id="there"></h2> <a href="../index.html">ok</a> <a href="#there">ok</a>',
        "bad/index.html": '<a href="../gone/">gone</a> <a href="../guide/#gone">gone</a> <img src="no.png">'
        '<script src="https://cdn.invalid/x.js"></script>',
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(broken(tmp_path))
    assert len(found) == 4
    assert all(line.startswith("bad/index.html ") for line in found)
    for part in (
        "../gone/, which",
        "../guide/#gone, a heading",
        "no.png, which",
        "loads https://cdn.invalid",
    ):
        assert any(part in line for line in found)


def test_the_names_of_modules(tmp_path):
    (tmp_path / "recall").mkdir()
    (tmp_path / "recall" / "__init__.py").write_text('"""What it is for.\n\nMore.\n"""\n')
    assert module_name(tmp_path / "recall" / "__init__.py", tmp_path) == "recall"
    assert module_name(tmp_path / "recall" / "model.py", tmp_path) == "recall.model"
    assert first_sentence(tmp_path / "recall" / "__init__.py") == "What it is for."
