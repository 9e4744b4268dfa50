import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.data.hashtags import add_topics, split_hashtags, split_running_hashtags


@pytest.mark.parametrize(
    ("text", "rest", "topics"),
    [
        ("I bake #bread today", "I bake today", ["bread"]),
        ("#Bread #bread #BREAD", "", ["Bread"]),
        ("好吃#美食 #旅行日记", "好吃", ["美食", "旅行日记"]),
        ("笔记 #露营[话题]# #咖啡[话题]#", "笔记", ["露营", "咖啡"]),
        ("#露营[话题]##咖啡[话题]#好", "好", ["露营", "咖啡"]),
        ("C# 与 #标签[话题]#", "C# 与", ["标签"]),
        ("#a#b#c end", "end", ["a", "b", "c"]),
        ("#tag# end", "end", ["tag"]),
        ("＃宽 full", "full", ["宽"]),
        ("love #coffee☕ now", "love ☕ now", ["coffee"]),
        ("(#one), #two!", "( ), !", ["one", "two"]),
        ("line #a\n\nnext #b", "line\n\nnext", ["a", "b"]),
        ("#10k #3d #b2b #cafe #facade", "", ["10k", "3d", "b2b", "cafe", "facade"]),
        ("#हिन्दी #ไทย", "", ["हिन्दी", "ไทย"]),
        ("we are #1 #win", "we are #1", ["win"]),
    ],
)
def test_hashtags_become_topics(text, rest, topics):
    assert split_hashtags(text) == (rest, topics)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no tags",
        "C# and F#  are languages",
        "C#sharp",
        "we are #1 and #2024",
        "see https://example.org/page#part and www.example.org/#top",
        "example.org/#part page?x=#y",
        "don&#39;t",
        "colours #fff #FFCC00 #0af #fafafa #12345678",
        "# heading",
        "keycap #️⃣ and #",
        "##",
    ],
)
def test_what_is_no_hashtag_stays_as_it_is(text):
    assert split_hashtags(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "rest", "topics"),
    [
        ("a caption # two words # next tag", "a caption", ["two words", "next tag"]),
        ("# only # Only #  spaced   out ", "", ["only", "spaced out"]),
        ("no tag", "no tag", []),
        ("x ## y#", "x", ["y"]),
        ("x # " + "long " * 20 + "# y", ("x " + "long " * 20).strip(), ["y"]),
    ],
)
def test_running_hashtags(text, rest, topics):
    assert split_running_hashtags(text) == (rest, topics)


def test_add_topics_keeps_the_first_spelling():
    assert add_topics(["A", "b"], ["a", "C", "B"]) == ["A", "b", "C"]


texts = st.text(alphabet=st.sampled_from("ab1 #＃话题[]\n☕汉/é"), max_size=40)


@given(texts)
def test_splitting_any_text_twice_changes_nothing_more(text):
    rest, topics = split_hashtags(text)
    assert len({topic.casefold() for topic in topics}) == len(topics)
    assert all(topic and topic in text for topic in topics)
    # No letter is lost: what is gone from the text is in the topics, or marks them.
    letters = [c for c in text if c.isalpha()]
    assert len(letters) >= len([c for c in rest if c.isalpha()])
    if not topics:
        assert rest == text


@given(texts)
def test_running_hashtags_leave_no_hash(text):
    rest, topics = split_running_hashtags(text)
    assert not any(c in "#＃" for c in rest + "".join(topics))
    assert all(topic == " ".join(topic.split()) for topic in topics)
