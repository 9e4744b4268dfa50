import numpy as np
import pyarrow as pa
import pytest

from notellm.data.same_text import equal_texts, near_texts
from notellm.data.schema import NOTES
from notellm.errors import ConfigError


def table(*texts):
    rows = [
        {
            "note_id": f"n{row:03}",
            "title": title,
            "content": content,
            "topics": list(topics),
            "category": "",
            "published_at": None,
        }
        for row, (title, content, *topics) in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, NOTES)


def test_case_width_and_white_space_do_not_tell_texts_apart():
    notes = table(
        ("Straße am See", ""),
        ("STRASSE  am\tSee ", ""),
        ("Ｓｔｒａｓｓｅ am", "see"),
        ("Straße am Fluss", ""),
        ("e\u0301clair", ""),
        ("\u00e9clair", ""),
    )
    assert equal_texts(notes).tolist() == [0, 0, 0, 1, 2, 2]


def test_topics_count_only_where_there_is_no_other_text():
    notes = table(
        ("tea", "", "green"),
        ("Tea", "", "black"),
        ("", "", "tea"),
        ("", " ", "TEA"),
        ("", "", "tea", "green"),
        ("", "", "tea green"),
        ("", ""),
        ("", ""),
    )
    assert equal_texts(notes).tolist() == [0, 0, 1, 1, 2, 3, 4, 5]


def words(seed, count=60):
    return [f"w{number}" for number in np.random.default_rng(seed).integers(0, 5_000, count)]


def with_changed(text, *places):
    return " ".join("changed" if place in places else word for place, word in enumerate(text))


def test_near_texts_are_joined_from_the_threshold_on():
    base = words(0)  # 59 pairs of words; a changed word inside replaces 2 of them: 57 of 61 are shared
    notes = table((" ".join(base), ""), (with_changed(base, 20), ""), (" ".join(words(1)), ""))
    assert near_texts(notes, 0.9).tolist() == [0, 0, 1]
    assert near_texts(notes, 57 / 61).tolist() == [0, 0, 1]
    assert near_texts(notes, 0.95).tolist() == [0, 1, 2]
    assert near_texts(notes, 1).tolist() == [0, 1, 2]


def test_near_texts_are_found_among_many_and_do_not_depend_on_the_order_of_rows():
    texts = []
    for seed in range(150):
        base = words(seed)
        texts += [(" ".join(base), ""), (with_changed(base, seed % 50 + 3), "")]
    notes = table(*texts, (" ".join(words(0)).upper(), ""))
    groups = near_texts(notes, 0.8)
    assert groups.tolist() == [*np.repeat(np.arange(150), 2).tolist(), 0]
    order = np.random.default_rng(3).permutation(len(notes))
    shuffled = near_texts(notes.take(pa.array(order)), 0.8)
    assert (shuffled[:, None] == shuffled).tolist() == (groups[order][:, None] == groups[order]).tolist()


def test_near_texts_in_scripts_without_spaces_and_of_many_words():
    chinese = "湖边露营的冷萃咖啡需要粗磨咖啡粉和冰凉的湖水在阴凉处放十二个小时"
    long = words(7, 3_000)
    notes = table(
        (chinese, ""),
        (chinese.replace("冰凉", "清凉"), ""),
        ("今天做了不用揉的面包只需要面粉水盐和时间非常简单大家都可以试试看", ""),
        (" ".join(long), ""),
        (with_changed(long, 100, 1_000, 2_000), ""),
        (" ".join(words(8, 3_000)), ""),
    )
    assert near_texts(notes, 0.8).tolist() == [0, 0, 1, 2, 2, 3]


def test_texts_without_words_are_near_none_but_their_equals():
    notes = table(("😄", ""), ("!!", ""), ("😄 ", ""), ("", ""), ("", ""), ("one", ""), ("One", ""))
    assert near_texts(notes, 0.5).tolist() == [0, 1, 0, 2, 3, 4, 4]
    assert near_texts(notes.slice(0, 0), 0.5).tolist() == []


@pytest.mark.parametrize("threshold", [0, 0.49, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"near_duplicates is .*; give a Jaccard index from 0.5 to 1"):
        near_texts(table(("a", "")), threshold)
