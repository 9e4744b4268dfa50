"""The encoding of a file: by its mark, by its bytes, by its letters, or as it is stated."""

import gzip

import pytest

from notellm.data.read import read_notes
from notellm.data.reading.options import ReadOptions
from notellm.errors import ConfigError, DataError
from tests.data.reading.files import found, problems, put

WESTERN = ["Crème brûlée für Anfänger", "Añejo – “the best” €5", "Œuvres complètes", "plain"]
RUSSIAN = ["Чай помогает согреться холодным вечером", "Как заварить зелёный чай", "Рецепты"]
JAPANESE = ["きょうは天気がいいので、公園でお茶を飲みます。", "東京の美味しいラーメン屋さん", "カフェ"]
CHINESE = [
    "今天天气很好，我们去公园喝茶，然后去市场买新鲜的蔬菜和水果。昨天晚上我和朋友一起看了一部电影，非常有意思。",
    "周末我们打算去爬山，希望不会下雨。",
]
NOT_UTF8 = "text that is not UTF-8"
WIDE = "text in UTF-16 or UTF-32"


def titles_of(path, **options):
    result = read_notes(path, options=ReadOptions(**options))
    return result.table["title"].to_pylist(), result.report


def table(titles):
    return "note_id,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(titles))


@pytest.mark.parametrize("titles", [WESTERN, RUSSIAN, JAPANESE, CHINESE])
def test_utf8_with_and_without_a_mark(tmp_path, titles):
    for name, codec in (("a.csv", "utf-8"), ("b.csv", "utf-8-sig")):
        found_titles, report = titles_of(put(tmp_path, name, table(titles).encode(codec)))
        assert found_titles == titles
        assert not problems(report)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("titles", [WESTERN, RUSSIAN])
def test_utf16_and_utf32(tmp_path, codec, titles):
    path = put(tmp_path, "n.csv", table(titles).encode(codec))
    found_titles, report = titles_of(path)
    assert found_titles == titles
    (option,) = report.options
    again, stated = titles_of(path, encoding=option.split("notes=")[1].rstrip("'"))
    assert again == titles
    assert not problems(stated)


def test_utf16_of_unicode_text_as_excel_saves_it(tmp_path):
    data = table(WESTERN).replace(",", "\t").replace("\n", "\r\n").encode("utf-16")
    assert titles_of(put(tmp_path, "n.txt", data))[0] == WESTERN


@pytest.mark.parametrize(
    ("codec", "titles"),
    [
        ("cp1252", WESTERN),
        ("cp1251", RUSSIAN),
        ("koi8_r", RUSSIAN),
        ("shift_jis", JAPANESE),
        ("euc_jp", JAPANESE),
        ("gb18030", CHINESE),
        ("cp1250", ["Příliš žluťoučký kůň úpěl ďábelské ódy", "Nejlepší čaje světa"]),
        ("big5", ["今天天氣很好，我們去公園喝茶，然後去市場買新鮮的蔬菜和水果。"]),
        ("euc_kr", ["오늘은 날씨가 좋아서 공원에서 차를 마셨습니다."]),
        ("cp1253", ["Το τσάι βοηθά να ζεσταθείτε ένα κρύο χειμωνιάτικο βράδυ"]),
    ],
)
def test_older_encodings_are_told_by_their_letters(tmp_path, codec, titles):
    path = put(tmp_path, "n.csv", table(titles).encode(codec))
    found_titles, report = titles_of(path)
    assert found_titles == titles
    row = found(report, NOT_UTF8)
    assert titles[0] in row.example
    assert row.option == f"--encoding 'notes={codec}'"
    assert titles_of(path, encoding=codec)[0] == titles
    assert not problems(titles_of(path, encoding=codec)[1])


def test_one_foreign_letter_late_in_a_large_file(tmp_path):
    many = ["plain"] * 20_000
    found_titles, report = titles_of(put(tmp_path, "n.csv", table([*many, "Café"]).encode("cp1252")))
    assert found_titles[-1] == "Café"
    assert found(report, NOT_UTF8).count == 1


@pytest.mark.parametrize("titles", [WESTERN, RUSSIAN, JAPANESE, CHINESE])
def test_utf8_with_a_few_broken_bytes_stays_utf8(tmp_path, titles):
    data = table(titles).encode() + b"90,bad \xff\n91,cut \xd0\n" + "92,Café\n".encode("cp1252")
    found_titles, report = titles_of(put(tmp_path, "n.csv", data))
    assert found_titles == [*titles, "bad \ufffd", "cut \ufffd", "Caf\ufffd"]
    assert problems(report) == {"broken UTF-8": 3}
    assert f"line {len(titles) + 2}" in report.problems[0].example


def test_short_chinese_texts_are_not_damaged_utf8(tmp_path):
    """Two bytes of GB18030 often look like a letter in UTF-8."""
    title = "今天天气很好，我们去公园喝茶，然后去市场买新鲜的蔬菜和水果。"
    assert titles_of(put(tmp_path, "n.csv", table([title]).encode("gb18030")))[0] == [title]


def test_a_stated_encoding_is_used(tmp_path):
    path = put(tmp_path, "n.csv", table(["Čaj"]).encode("cp1250"))
    assert titles_of(path, encoding="cp1250")[0] == ["Čaj"]
    assert titles_of(path, encoding="windows-1250")[0] == ["Čaj"]
    assert titles_of(path, encoding="latin-1")[0] == ["Èaj"]


def test_bytes_that_a_stated_encoding_lacks_are_replaced_and_reported(tmp_path):
    path = put(tmp_path, "n.csv", b"note_id,title\n1,a\x81b\n2,Caf\xe9\n")
    found_titles, report = titles_of(path, encoding="cp1252")
    assert found_titles == ["a\ufffdb", "Café"]
    assert problems(report)


def test_an_unknown_encoding_is_named(tmp_path):
    path = put(tmp_path, "n.csv", table(["a"]))
    with pytest.raises(ConfigError, match=r"encoding is 'utf-9'; give one that Python knows"):
        titles_of(path, encoding="utf-9")
    with pytest.raises((ConfigError, DataError), match="encoding"):
        titles_of(path, encoding="base64")  # a codec of Python, but of no text


def test_compressed_json_lines_in_another_encoding(tmp_path):
    data = '{"note_id": 1, "title": "Café für zwei"}\n'.encode("cp1252")
    found_titles, report = titles_of(put(tmp_path, "n.jsonl.gz", gzip.compress(data)))
    assert found_titles == ["Café für zwei"]
    assert found(report, NOT_UTF8).count == 2


def test_parts_may_differ_in_their_encoding(tmp_path):
    put(tmp_path, "n/a.csv", table(["Café"]).encode("cp1252"))
    put(tmp_path, "n/b.csv", table(["Café"]).encode("utf-8"))
    put(tmp_path, "n/c.csv", table(["Café"]).encode("utf-16"))
    assert titles_of(tmp_path / "n")[0] == ["Café"] * 3


@pytest.mark.parametrize("codec", ["shift_jis", "gb18030", "utf-16-le", "utf-8", "cp1251"])
def test_any_bytes_are_read_in_a_stated_encoding(tmp_path, codec):
    rows = b"".join(
        bytes([0x31, high, low]) for high in range(0x80, 0x100, 3) for low in range(0x30, 0x100, 7)
    )
    rows = rows.replace(b'"', b"")
    data = "note_id,title\n1,".encode(codec) + rows[: len(rows) // 2 * 2] + "\n2,b\n".encode(codec)
    found_titles, report = titles_of(put(tmp_path, "n.csv", data), encoding=codec, quoting="none")
    assert found_titles[-1] == "b"
    assert problems(report)
