"""Files of ranges: what is written is read, one number stands for all, and each damage is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.errors import DataError
from minilm.model.vector_ranges import read_vector_ranges, write_vector_ranges


def test_what_is_written_is_read(tmp_path):
    ranges = np.array([[-0.1, -1 / 3, 0], [0.2, 1e-7, 0]], dtype=np.float32)
    write_vector_ranges(tmp_path / "a.ranges.json", ranges)
    np.testing.assert_array_equal(read_vector_ranges(tmp_path / "a.ranges.json", dimensions=3), ranges)


def test_one_number_is_for_all_dimensions(tmp_path):
    (tmp_path / "r.json").write_text('{"low": -0.25, "high": 0.25}')
    found = read_vector_ranges(tmp_path / "r.json", dimensions=4)
    assert found.tolist() == [[-0.25] * 4, [0.25] * 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": [-1, -1], "high": [1, 1]}, "low has 2 numbers; expected 3, one for each dimension of the vectors"),
        ({"low": -1}, "found the keys 'low'; expected 'low' and 'high'"),
        ({"low": -1, "high": 1, "mean": 0}, "found the keys 'low', 'high', 'mean'"),
        ({"low": "-1", "high": 1}, r"low is '-1'; expected a number up to 1e\+38, or a list of them"),
        ({"low": -1, "high": [1, float("nan"), 1]}, "high is nan; expected a number up to 1e"),
        ({"low": -1, "high": 10**400}, "high is 1000"),
        ({"low": -1e300, "high": 1}, r"low is -1e\+300; expected a number up to"),
        ({"low": [-1, 2, -1], "high": 1}, "low is 2 and high 1 in dimension 1; expected low <= high"),
    ],
)
def test_damage_is_named(tmp_path, values, message):
    (tmp_path / "r.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        read_vector_ranges(tmp_path / "r.json", dimensions=3)
