"""The options of an experiment are checked together, before the data are read."""

import pytest

from notellm.errors import ConfigError
from notellm.experiment.options import ExperimentOptions


@pytest.mark.parametrize(
    ("budget", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5h", 1800)]
)
def test_a_budget_is_read_as_people_write_it(budget, seconds):
    assert ExperimentOptions(budget=budget).checked().budget_seconds == seconds


@pytest.mark.parametrize("budget", ["", "2", "two hours", "h", "0h", "-1h", "30m1h"])
def test_another_budget_is_refused_with_the_form(budget):
    with pytest.raises(ConfigError, match="write hours, minutes and seconds as in 2h, 90m or 1h30m"):
        ExperimentOptions(budget=budget).checked()


def test_all_mistakes_are_reported_at_once():
    options = ExperimentOptions(seeds=0, recall=False, ablations=False, rank=False, budget="soon")
    with pytest.raises(ConfigError) as error:
        options.checked()
    assert all(part in str(error.value) for part in ("seeds is 0", "are all left out", "budget is 'soon'"))


def test_options_of_the_backbone_are_checked_with_it():
    with pytest.raises(ConfigError, match="layers is 4"):
        ExperimentOptions(layers=4).checked()  # of the tiny backbone
