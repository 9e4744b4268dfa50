import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import DataError
from notellm.vectors import read_vectors, vector_table


def test_a_file_with_a_broken_vector_is_named(tmp_path):
    path = tmp_path / "v.parquet"
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 2] = np.nan
    pq.write_table(vector_table(pa.array(["a", "b", "c"]), vectors), path)
    with pytest.raises(DataError, match=r"v\.parquet: vector 1 holds a number that is not finite"):
        read_vectors(path)
    missing = pa.array([[1.0, 0.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"note_id": ["a", "b"], "vector": missing}), path)
    # Older versions of pyarrow cannot read such a file back; it is named all the same.
    with pytest.raises(DataError, match=r"v\.parquet(: vector 1 is missing| is not a readable Parquet file)"):
        read_vectors(path)
