"""Every variant differs from NoteLLM in one option, and none repeats it."""

import dataclasses

import pytest

from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.ablations import ablations, default_settings
from notellm.experiment.recall.methods import NOTELLM, recall_methods
from notellm.pairs.score import PairOptions

OPTIONS = (ExperimentOptions(), ExperimentOptions(backbone="some/model", layers=4))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_variant_differs_in_its_own_option_alone(options):
    reference = dataclasses.asdict(recall_methods(options)[NOTELLM].recall_options(options, 0))
    mining = dataclasses.asdict(PairOptions(min_users=options.min_users))
    for method in ablations(options):
        if method.part == "losses":
            continue
        changed = dataclasses.asdict(method.recall_options(options, 0))
        differing = {name for name, value in changed.items() if value != reference[name]}
        mined = dataclasses.asdict(PairOptions(**{**mining, **method.mining}))
        differing |= {name for name, value in mined.items() if value != mining[name]}
        assert differing == {method.part}


@pytest.mark.parametrize("options", OPTIONS)
def test_no_variant_is_computed_twice(options):
    # Other related pairs are other data (recall/part.py).
    made_of = [f"{sorted(each.made_of(options, 0).items())} {each.mining}" for each in ablations(options)]
    reference = recall_methods(options)[NOTELLM]
    assert f"{sorted(reference.made_of(options, 0).items())} {reference.mining}" not in made_of
    assert len(set(made_of)) == len(made_of)
    assert len({each.key for each in ablations(options)}) == len(made_of)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_setting_of_the_experiment_itself_is_named_for_every_part(options):
    variants = ablations(options)
    settings = default_settings(options)
    assert {each.part for each in variants} == settings.keys()
    assert all(settings[each.part] != each.setting for each in variants)


def test_the_size_of_the_backbone_varies_only_where_it_is_made_from_the_notes():
    tiny, pretrained = ({each.part for each in ablations(options)} for options in OPTIONS)
    assert tiny - pretrained == {"tiny_layers", "tiny_hidden"}


def test_the_contrastive_row_of_the_table_is_the_variant_without_csft():
    options = OPTIONS[0]
    variant = next(each for each in ablations(options) if each.setting == "without CSFT")
    assert variant.made_of(options, 0) == recall_methods(options)["contrastive"].made_of(options, 0)
