"""Notes, clicks and impressions: the tables, reading and cleaning them, public datasets, the sample world."""

from notellm.data.collm import CollmData, read_collm
from notellm.data.hashtags import split_hashtags, split_running_hashtags
from notellm.data.impressions import (
    click_histories,
    impressions_from_clicks,
    split_impressions,
    split_impressions_by_time,
    validate_impressions,
)
from notellm.data.kuairec import read_kuairec
from notellm.data.microlens import read_microlens
from notellm.data.mind import read_mind
from notellm.data.movielens import read_movielens
from notellm.data.problems import Problem, Report
from notellm.data.read import ReadResult, read_clicks, read_notes
from notellm.data.sample_world import SampleWorld, Truth, sample_world
from notellm.data.schema import CLICKS, IMPRESSIONS, NOTES, PAIRS
from notellm.data.validate import validate

__all__ = [
    "CLICKS",
    "IMPRESSIONS",
    "NOTES",
    "PAIRS",
    "CollmData",
    "Problem",
    "ReadResult",
    "Report",
    "SampleWorld",
    "Truth",
    "click_histories",
    "impressions_from_clicks",
    "read_clicks",
    "read_collm",
    "read_kuairec",
    "read_microlens",
    "read_mind",
    "read_movielens",
    "read_notes",
    "sample_world",
    "split_hashtags",
    "split_impressions",
    "split_impressions_by_time",
    "split_running_hashtags",
    "validate",
    "validate_impressions",
]
