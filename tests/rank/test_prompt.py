"""The ranking prompt: the paper's wording, one beginning for all candidates, and notes that are only text."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from notellm.backbone.tokenizer import harden, load_tokenizer
from notellm.data.note import Note
from notellm.errors import ConfigError
from notellm.rank.code_tokens import octet, train_code_tokenizer
from notellm.rank.config import FORMS, BinLLMConfig
from notellm.rank.prompt import RankPrompt, builtin_templates, load_template, template_from_dict
from tests.rank.small import TEMPLATE

CODE = "01100101" * 4
HOSTILE = 'a "quote"\n{title} {user_code} </s><s><pad>[BOS] <|im_end|> <think> {history}'


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["soup bread garlic oven", "star planet orbit", "yes no yes no", "101 dalmatians 2001"] * 5
    return train_code_tokenizer([*texts, json.dumps(load_template("movies").to_dict())], vocabulary=1200)


def prompt_of(tokenizer, template="movies", **options):
    return RankPrompt(tokenizer, load_template(template), BinLLMConfig(**{"max_length": 512, **options}))


def text_of(prompt, history, note, form, user=None, item=None):
    """The whole prompt as text."""
    (note,) = prompt.cut([note])
    shared = prompt.template.form(form).shared
    whole = prompt._shared_text(shared, prompt.cut(history), user)
    return whole + prompt._candidate_text(prompt.template.form(form).candidate, note, item)


# ---------------------------------------------------------------- wording


def test_every_template_loads_and_says_what_it_must(tokenizer):
    assert builtin_templates() == ["books", "brief", "compact", "movies", "notes"]
    for name in builtin_templates():
        template = load_template(name)
        assert template.name == name
        assert template_from_dict(template.to_dict(), "again") == template
        prompt = RankPrompt(tokenizer, template, BinLLMConfig())
        assert prompt.yes_id != prompt.no_id
        (note,) = prompt.cut([Note("soup")])
        for form in FORMS:
            codes = (None, None) if form == "text_only" else (CODE, CODE)
            assert prompt.shared_ids([note], codes[0], form) + prompt.candidate_ids(note, codes[1], form, 400)


@pytest.mark.parametrize(("name", "kind"), [("movies", "movie"), ("books", "book")])
def test_the_wording_is_the_papers(tokenizer, name, kind):
    prompt = prompt_of(tokenizer, name)
    history, note = [Note("Heat (1995)"), Note("Fargo")], Note("Casino")
    assert text_of(prompt, history, note, "with_codes", "<UserID>", "<TargetItemID>") == (
        f'#Question: A user has given high ratings to the following {kind}s: "Heat (1995)", "Fargo". '
        "Additionally, we have information about the user's preferences encoded in the feature <UserID>. "
        "Using all available information, make a prediction about whether the user would enjoy the "
        f'{kind} titled "Casino" with the feature <TargetItemID>? Answer with "Yes" or "No". \n#Answer:'
    )
    assert text_of(prompt, history, note, "text_only") == (
        f'#Question: A user has given high ratings to the following {kind}s: "Heat (1995)", "Fargo". '
        f'Leverage the information to predict whether the user would enjoy the {kind} titled "Casino"? '
        'Answer with "Yes" or "No". \n#Answer:'
    )
    ids_only = text_of(prompt, history, note, "codes_only", "<UserID>", "<TargetItemID>")
    assert "Casino" not in ids_only
    assert "Heat" not in ids_only


def test_a_template_may_be_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(TEMPLATE))
    assert load_template(path).to_dict() == {**TEMPLATE, "about": ""}
    with pytest.raises(ConfigError, match="no template 'moovies': give one of books, brief, compact"):
        load_template("moovies")
    with pytest.raises(ConfigError, match="expected a JSON object, found list"):
        template_from_dict([], "x")


MISTAKES = [
    (lambda t: t.pop("yes"), "yes must be a text"),
    (lambda t: t.update(no=3), "no must be a text"),
    (lambda t: t.update(no=t["yes"]), "yes and no are the same answer"),
    (lambda t: t.pop("history_separator"), "history_separator must be a text"),
    (lambda t: t.update(history_item="{title} {user_code}"), "history_item must not contain {user_code}"),
    (lambda t: t.pop("codes_only"), "codes_only must be an object with the texts shared and candidate"),
    (lambda t: t["text_only"].update(shared="x"), "text_only lacks {history}"),
    (lambda t: t["with_codes"].update(candidate="{title} x"), "with_codes lacks {item_code}"),
    (
        lambda t: t["with_codes"].update(shared="{history}{user_code}{title}"),
        "shared must not contain {title}",
    ),
    (
        lambda t: t["codes_only"].update(candidate="{user_code} {item_code} x"),
        "candidate must not contain {user_code}",
    ),
    (lambda t: t["text_only"].update(candidate="{title} {item_code} x"), "text_only must not contain a code"),
    (
        lambda t: t["text_only"].update(candidate="is it {title}"),
        "text_only.candidate must end in fixed text",
    ),
]


@pytest.mark.parametrize(("spoil", "says"), MISTAKES)
def test_each_mistake_of_a_template_is_named(spoil, says):
    template = copy.deepcopy(TEMPLATE)
    spoil(template)
    with pytest.raises(ConfigError) as caught:
        template_from_dict(template, "mine.json")
    assert says in str(caught.value)
    assert str(caught.value).startswith("ranking template mine.json: ")
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_together():
    template = copy.deepcopy(TEMPLATE)
    template["yes"] = None
    template["with_codes"]["shared"] = "{title}"
    del template["codes_only"]
    with pytest.raises(ConfigError) as caught:
        template_from_dict(template, "mine.json")
    for says in ("yes must", "with_codes lacks {history}", "lacks {user_code}", "{title}", "codes_only must"):
        assert says in str(caught.value)


# ---------------------------------------------------------------- notes are text


@pytest.fixture(scope="module", params=["tiny", "llama", "qwen2", "neox"])
def any_prompt(request, tokenizer, checkpoints):
    found = tokenizer if request.param == "tiny" else load_tokenizer(checkpoints[request.param].path)
    config = BinLLMConfig(title_tokens=200, max_length=2000)
    return RankPrompt(found, template_from_dict(TEMPLATE, "small"), config)


def test_markup_and_placeholders_in_a_title_are_plain_characters(any_prompt):
    tokenizer = any_prompt.tokenizer
    markup = "".join(token.content for token in tokenizer.added_tokens_decoder.values())
    assert markup
    (note,) = any_prompt.cut([Note(HOSTILE + markup)])
    shared = any_prompt.shared_ids([note, note], CODE, "with_codes")
    own = any_prompt.candidate_ids(note, CODE, "with_codes", 1500)
    special = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    begins = tokenizer("x")["input_ids"][0] in special
    assert not special & set(shared[1 if begins else 0 :] + own)
    assert "\n" not in note.title
    bare = json.loads(tokenizer.backend_tokenizer.to_str()) | {"added_tokens": [], "post_processor": None}
    text = any_prompt._candidate_text(any_prompt.template.with_codes.candidate, note, CODE)
    assert "{title} {user_code}" in text
    assert "{history}" in text
    assert own == Tokenizer.from_str(json.dumps(bare)).encode(text, add_special_tokens=False).ids


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_title_is_data(tokenizer, title):
    prompt = prompt_of(tokenizer, "compact", title_tokens=80)
    (note,) = prompt.cut([Note(title)])
    ids = prompt.candidate_ids(note, CODE, "with_codes", 500)
    codes = {tokenizer(octet(value), add_special_tokens=False)["input_ids"][0] for value in range(256)}
    assert sum(i in codes for i in ids) == 4
    assert not set(tokenizer.added_tokens_decoder) & set(ids)


def test_a_note_without_a_title_is_called_by_its_content(tokenizer):
    prompt = prompt_of(tokenizer)
    plain, blank = prompt.cut([Note("", "garlic soup"), Note(" \n", "garlic soup")])
    assert plain.title == blank.title == "garlic soup"
    assert plain.content == blank.content == ""


def test_texts_are_cut_at_their_budgets(tokenizer):
    prompt = prompt_of(tokenizer, title_tokens=3, content_tokens=2, topics_tokens=2)
    (note,) = prompt.cut(
        [Note("soup bread garlic oven star", "star planet orbit", ("soup", "bread", "oven"))]
    )
    for text, budget in ((note.title, 3), (note.content, 2), (note.topics[0], 2)):
        assert 0 < len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= budget


# ---------------------------------------------------------------- codes


def codes_in(tokenizer, text):
    known = {tokenizer(octet(v), add_special_tokens=False)["input_ids"][0] for v in range(256)}
    return sum(i in known for i in tokenizer(text, add_special_tokens=False)["input_ids"])


def test_every_binary_code_takes_the_same_number_of_tokens(tokenizer):
    alone = [tokenizer(octet(value), add_special_tokens=False)["input_ids"] for value in range(256)]
    assert {len(ids) for ids in alone} == {1}
    assert len({ids[0] for ids in alone}) == 256
    for value in (0, 1, 127, 255):
        ids = tokenizer(f" {octet(value) * 4} soup", add_special_tokens=False)["input_ids"]
        assert sum(i == alone[value][0] for i in ids) == 4


def test_codes_are_single_tokens_whatever_the_corpus():
    """A small vocabulary spent on many words has room for them all the same."""
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "klmnopqrst"]
    tokenizer = train_code_tokenizer(words * 20, vocabulary=300)
    ids = [tokenizer(octet(value), add_special_tokens=False)["input_ids"] for value in range(256)]
    assert {len(one) for one in ids} == {1}
    assert len({one[0] for one in ids}) == 256


@pytest.mark.parametrize(
    "title",
    [
        "101 Dalmatians",
        "10 Things",
        "2001",
        "⓪①⓪①⓪①⓪①⓪①",
        "01100101",
        "1" * 30,
        "０１１００１０１",
        "10000000 ways",
        "⑩⑩⑩⑩⑩",
        "0\u00b9\u2070\u00b91010",
    ],
)
def test_a_digit_of_a_title_is_never_a_code(tokenizer, title):
    prompt = prompt_of(tokenizer, "compact", title_tokens=60)
    (note,) = prompt.cut([Note(title, topics=(title,))])
    text = prompt._candidate_text(prompt.template.with_codes.candidate, note, None)
    assert codes_in(tokenizer, text) == 0
    assert codes_in(tokenizer, prompt._shared_text("{history} | {user_code}", [note, note], CODE)) == 4
    assert codes_in(tokenizer, octet(101)) == 1


def test_titles_that_are_no_code_stay_as_they_are(tokenizer):
    titles = ["101 Dalmatians", "1234567 01", "ｆｕｌｌ", "1010101"]
    assert [note.title for note in prompt_of(tokenizer).cut([Note(t) for t in titles])] == titles


# ---------------------------------------------------------------- one beginning, history, room


def test_all_candidates_share_the_beginning(any_prompt):
    history = any_prompt.cut([Note("soup"), Note("bread and butter")])
    notes = any_prompt.cut([Note("star"), Note("soup"), Note("a planet")])
    shared = any_prompt.shared_ids(history, CODE, "with_codes")
    wholes = [shared + any_prompt.candidate_ids(note, CODE, "with_codes", 500) for note in notes]
    assert len({tuple(ids) for ids in wholes}) == 3
    assert all(ids[: len(shared)] == shared for ids in wholes)
    text = any_prompt._shared_text(any_prompt.template.with_codes.shared, history, CODE)
    assert shared == any_prompt.tokenizer(text)["input_ids"]
    assert shared[-1] != any_prompt.tokenizer.eos_token_id


def test_the_last_notes_of_the_history_are_named(tokenizer):
    notes = [Note(f"word{i}") for i in range(7)]
    prompt = prompt_of(tokenizer, history=3)
    assert prompt.shared_ids(notes, None, "text_only") == prompt.shared_ids(notes[4:], None, "text_only")
    assert prompt.shared_ids(notes, None, "text_only") != prompt.shared_ids(notes[3:6], None, "text_only")
    none = prompt_of(tokenizer, history=0)
    assert none.shared_ids(notes, None, "text_only") == prompt.shared_ids([], None, "text_only")


def test_the_oldest_notes_go_first_where_the_history_is_too_long(tokenizer):
    notes = [Note(f"soup bread garlic {i}") for i in range(10)]
    wide = prompt_of(tokenizer, "compact", max_length=500)
    length = len(wide.shared_ids(notes, CODE, "with_codes"))
    tight = prompt_of(tokenizer, "compact", max_length=length)  # three quarters of it are the history's
    ids = tight.shared_ids(notes, CODE, "with_codes")
    kept = [n for n in range(1, 10) if ids == wide.shared_ids(notes[-n:], CODE, "with_codes")]
    assert len(kept) == 1
    assert len(ids) <= length * 3 // 4
    assert len(wide.shared_ids(notes[-kept[0] - 1 :], CODE, "with_codes")) > length * 3 // 4


def test_the_content_goes_before_the_title_and_then_it_is_an_error(tokenizer):
    template = template_from_dict(TEMPLATE, "small")
    prompt = RankPrompt(tokenizer, template, BinLLMConfig())
    (note,) = prompt.cut([Note("soup bread", "star planet orbit star planet")])
    whole = prompt.candidate_ids(note, CODE, "with_codes", 400)
    bare = prompt.candidate_ids(replace(note, content=""), CODE, "with_codes", 400)
    assert len(bare) < len(whole)
    assert prompt.candidate_ids(note, CODE, "with_codes", len(whole)) == whole
    assert prompt.candidate_ids(note, CODE, "with_codes", len(whole) - 1) == bare
    assert prompt.candidate_ids(note, CODE, "with_codes", len(bare)) == bare
    with pytest.raises(ConfigError, match=r"the note 'soup bread' takes .* raise max_length"):
        prompt.candidate_ids(note, CODE, "with_codes", len(bare) - 1)


# ---------------------------------------------------------------- answers


def test_answers_with_the_same_first_token_are_refused(tokenizer):
    template = replace(load_template("movies"), yes=" yes", no=" yes no")
    with pytest.raises(ConfigError, match="' yes' and ' yes no' begin with the same token"):
        RankPrompt(tokenizer, template, BinLLMConfig())
    with pytest.raises(ConfigError, match="'' has no token of its own"):
        RankPrompt(tokenizer, replace(template, yes=""), BinLLMConfig())


def test_answers_are_read_as_they_follow_the_prompt():
    """Tokenizers of the SentencePiece kind put a space before a text, no first token of an answer."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "</s>"],
        initial_alphabet=list("▁:#YesNo"),
        show_progress=False,
    )
    bpe.train_from_iterator(["Answer: Yes", "Answer: No", "#Answer: Yes", "a: No"] * 9, trainer)
    tokenizer = harden(PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>"))
    for yes, no in ((" Yes", " No"), ("Yes", "No")):
        prompt = RankPrompt(tokenizer, replace(load_template("movies"), yes=yes, no=no), BinLLMConfig())
        start = tokenizer("#Answer:", add_special_tokens=False)["input_ids"]
        for text, own in ((yes, prompt.yes_id), (no, prompt.no_id)):
            whole = tokenizer(f"#Answer:{text}", add_special_tokens=False)["input_ids"]
            assert whole[: len(start)] == start
            assert whole[len(start)] == own


def test_every_wrong_budget_is_named(tokenizer):
    with pytest.raises(ConfigError) as caught:
        prompt_of(tokenizer, title_tokens=0, content_tokens=-1, topics_tokens=0, history=-1)
    for name in ("title_tokens is 0", "content_tokens is -1", "topics_tokens is 0", "history is -1"):
        assert name in str(caught.value)
