"""The files of the web page, as far as they can be checked without a browser."""

import re
from importlib import resources

FILES = {
    file.name: file.read_text(encoding="utf-8")
    for file in (resources.files("notellm.serve") / "page").iterdir()
    if file.name.endswith((".js", ".html"))
}
USES = (
    r'data-t(?:-[\w-]+)?="([\w.]+)"',
    r'\bt\("([\w.]+)"',
    r'\bt\([^")`]*\? "([\w.]+)"',
    r'\bt\([^)`]* : "([\w.]+)"\)',
)
ENTRY = re.compile(r'^  "([\w.]+)": \[', re.MULTILINE)


def test_every_word_that_is_used_is_defined_once():
    defined = [key for text in FILES.values() for key in ENTRY.findall(text)]
    assert len(defined) > 100
    assert len(defined) == len(set(defined))
    for name, text in FILES.items():
        used = {key for pattern in USES for key in re.findall(pattern, text)}
        assert used <= set(defined), name


def test_every_view_is_a_module_that_app_js_imports_and_names_its_tab():
    views = {name: text for name, text in FILES.items() if "\naddView({" in text}
    assert {"notes.js", "users.js", "map.js", "state.js"} <= set(views)
    for name, text in views.items():
        assert f'import "./{name}";' in FILES["app.js"]
        assert f'"tab.{name.removesuffix(".js")}": [' in text
