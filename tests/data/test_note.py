from notellm.data.note import Note, display_title


def test_the_content_stands_for_a_note_without_title():
    assert Note("Tea", "about tea").display_title() == "Tea"
    assert Note("", "about tea").display_title(5) == "about"
    assert display_title("a long title", "content", 6) == "a long"
    assert Note().display_title() == ""
