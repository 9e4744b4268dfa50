"""Notes and clicks: the tables, reading and cleaning them, public datasets, the sample world."""

from notellm.data.hashtags import split_hashtags, split_running_hashtags
from notellm.data.kuairec import read_kuairec
from notellm.data.microlens import read_microlens
from notellm.data.mind import read_mind
from notellm.data.movielens import read_movielens
from notellm.data.problems import Problem, Report
from notellm.data.read import ReadResult, read_clicks, read_notes
from notellm.data.sample_world import SampleWorld, Truth, sample_world
from notellm.data.schema import CLICKS, NOTES, PAIRS
from notellm.data.validate import validate

__all__ = [
    "CLICKS",
    "NOTES",
    "PAIRS",
    "Problem",
    "ReadResult",
    "Report",
    "SampleWorld",
    "Truth",
    "read_clicks",
    "read_kuairec",
    "read_microlens",
    "read_mind",
    "read_movielens",
    "read_notes",
    "sample_world",
    "split_hashtags",
    "split_running_hashtags",
    "validate",
]
