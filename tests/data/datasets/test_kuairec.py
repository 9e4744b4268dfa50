import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.kuairec import read_kuairec
from notellm.data.validate import validate
from notellm.errors import DataError

CAPTIONS = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,"
    "third_level_category_name\n"
    "0,UNKNOWN,精神 #小伙 路难走,[],8,颜值,673,颜值随拍,-124,UNKNOWN\n"
    '1,封面,#搞笑 #感谢,"[感谢,搞笑,真实]",5,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n'
    "2,torn\n"
    "3,UNKNOWN,,[],5,时尚,-124,UNKNOWN,-124,UNKNOWN\n"
)
MATRIX = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    "14,0,4381,6067,2020-07-05 05:27:48,20200705.0,1593898068.29,0.72\n"
    "14,1,11635,6100,2020-07-05 05:28:00,20200705.0,1593898080.5,1.9\n"
    "19,1,6100,6100,,,,1.0\n"
)


@pytest.mark.parametrize("name", ["kuairec_caption_category.csv", "items_clean.csv"])
def test_captions(tmp_path, name):
    (tmp_path / name).write_text(CAPTIONS)
    data = read_kuairec(tmp_path)
    notes, clicks = data.notes, data.clicks
    assert notes.schema.equals(RAW_NOTES)
    assert notes.column("note_id").to_pylist() == ["0", "1", "3"]
    assert notes.column("title").to_pylist() == ["", "封面", ""]
    assert notes.column("content").to_pylist() == ["精神 路难走", "", ""]
    assert notes.column("topics").to_pylist() == [["小伙"], ["感谢", "搞笑", "真实"], []]
    assert notes.column("category").to_pylist() == ["颜值", "", "时尚"]
    rows = {row.problem: row for row in data.report.problems}
    assert rows["other number of cells than the header"].example.startswith("line 4: 2 cells")
    assert "no big_matrix.csv or small_matrix.csv" in rows
    assert clicks.equals(RAW_CLICKS.empty_table())
    assert validate(notes, clicks)[0].num_rows == 2


def test_videos_watched_to_the_end_are_clicks(tmp_path):
    (tmp_path / "kuairec_caption_category.csv").write_text(CAPTIONS)
    (tmp_path / "big_matrix.csv").write_text(MATRIX)
    data = read_kuairec(tmp_path)
    notes, clicks = data.notes, data.clicks
    assert clicks.schema.equals(RAW_CLICKS)
    assert clicks.column("user_id").to_pylist() == ["14", "19"]
    _, clicks, report = validate(notes, clicks)
    assert clicks.column("timestamp").to_pylist()[0].timestamp() == 1_593_898_080.5
    assert [p.problem for p in report.problems] == ["note without any text", "missing time"]
    (tmp_path / "big_matrix.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"big_matrix\.csv must be a CSV with the columns user_id"):
        read_kuairec(tmp_path)


def test_a_watch_ratio_that_is_no_finite_number_is_no_click(tmp_path):
    (tmp_path / "kuairec_caption_category.csv").write_text(CAPTIONS)
    cells = [
        "1,0,1700000005,nan",
        "1,1,1700000005,inf",
        "2,0,1700000005,-inf",
        "2,1,1700000005,",
        "3,0,1700000005,much",
        "3,1,1700000005,1.5",
        "4,1,1700000005,0.99",
    ]
    (tmp_path / "small_matrix.csv").write_text(
        "\n".join(["user_id,video_id,timestamp,watch_ratio", *cells, ""])
    )
    data = read_kuairec(tmp_path)
    assert data.clicks.column("user_id").to_pylist() == ["3"]
    rows = {row.problem: (row.count, row.example) for row in data.report.problems[1:]}
    assert rows == {
        "watch_ratio is no finite number": (
            5,
            "user_id 1, video_id 0, timestamp 1700000005, watch_ratio nan",
        ),
        "video not watched to its end": (1, "user_id 4, video_id 1, timestamp 1700000005, watch_ratio 0.99"),
    }


@pytest.mark.real
def test_real_kuairec(real_data):
    data = read_kuairec(real_data("kuairec-captions"))
    notes, clicks = data.notes, data.clicks
    assert (notes.num_rows, clicks.num_rows) == (10_728, 0)
    notes, clicks, report = validate(notes, clicks)
    lost = {p.problem: p.count for p in report.problems}
    assert set(lost) == {"invisible characters around a text", "note without any text"}
    assert notes.num_rows + lost["note without any text"] == 10_728
    assert len(set(notes.column("category").to_pylist()) - {""}) <= 39
    assert "UNKNOWN" not in notes.column("title").to_pylist()
