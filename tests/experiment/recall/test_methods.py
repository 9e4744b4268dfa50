"""Language models without training are read as their papers say."""

import numpy as np
import pytest

from notellm.backbone.encoder import TextEncoder
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.methods import EOL, MEAN, pooled_states, recall_methods
from notellm.lexical.terms import texts_of


def changed(notes, row, title):
    titles = notes["title"].to_pylist()
    titles[row] = title
    place = notes.schema.get_field_index("title")
    return notes.set_column(place, notes.schema.field(place), [titles])


def encoder(checkpoints, pooling):
    return TextEncoder.from_language_model(checkpoints["llama"].path, pooling=pooling)


def test_the_mean_is_over_the_states_of_all_tokens(checkpoints, notes):
    model = encoder(checkpoints, "mean")
    found = pooled_states(model, notes.slice(0, 3), MEAN)
    assert np.allclose(found, model.encode(texts_of(notes.slice(0, 3))), atol=1e-5)


def test_prompteol_reads_the_end_of_its_prompt_however_long_the_text_is(checkpoints, notes):
    model = encoder(checkpoints, "lasttoken")
    long, longer = (changed(notes, 0, "star planet orbit " * times) for times in (300, 400))
    first, second = (pooled_states(model, each.slice(0, 1), EOL) for each in (long, longer))
    assert np.allclose(first, second, atol=1e-5)  # the text is cut, the prompt is not
    assert model.encode([EOL.replace("{}", "star")]).shape == first.shape
    other = pooled_states(model, changed(notes, 0, "soup").slice(0, 1), EOL)
    assert not np.allclose(first, other, atol=1e-3)


def test_braces_in_a_text_are_text(checkpoints, notes):
    model = encoder(checkpoints, "lasttoken")
    assert np.isfinite(pooled_states(model, changed(notes, 0, "{} {title} {0}").slice(0, 1), EOL)).all()


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (ExperimentOptions(), []),
        (ExperimentOptions(sentence_encoder="x"), ["sentence", "tuned-sentence"]),
        (ExperimentOptions(backbone="some/model"), ["mean", "prompteol"]),
    ],
)
def test_methods_follow_what_is_given(options, more):
    assert [*recall_methods(options)] == [*more, "contrastive", "repllama", "notellm"]


def test_the_options_of_a_result_decide_what_it_is_made_of():
    options = ExperimentOptions(sentence_encoder="x")
    methods = recall_methods(options)
    for method in methods.values():
        seeds = [method.made_of(options, seed) for seed in (0, 1)]
        assert (seeds[0] != seeds[1]) == method.is_seeded
