from notellm.data.note import TITLE_LENGTH, Note


def test_the_content_stands_for_a_note_without_title():
    assert Note("Tea", "about tea").display_title == "Tea"
    assert Note("", "about tea").display_title == "about tea"
    assert Note("", "").display_title == ""


def test_only_content_is_cut():
    long = "t" * (2 * TITLE_LENGTH)
    assert Note(long, "about tea").display_title == long
    assert Note("", long).display_title == long[:TITLE_LENGTH]
