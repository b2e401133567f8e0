from dataclasses import replace

import pytest

from models.errors import UnsupportedOption
from models.measurements import Measurement, Measurements

ONE = Measurement("resnet18@abc", (3, 224, 224), "a processor", "fp32", 1, 12.5, 10, 1.0)


def test_a_new_measurement_takes_the_place_of_an_older_one_of_the_same(tmp_path):
    kept = Measurements(tmp_path / "data")
    assert kept.all() == []
    for one in (ONE, replace(ONE, batch=8, latency_ms=80.0), replace(ONE, latency_ms=11.0)):
        kept.add(one)
    assert [one.latency_ms for one in Measurements(tmp_path / "data").all()] == [80.0, 11.0]
    found = kept.find(ONE.model, (3, 224, 224), device="a processor", precision="fp32", batch=1)
    assert found.latency_ms == 11.0
    assert kept.find(ONE.model, (3, 224, 224), device="another", precision="fp32", batch=1) is None


@pytest.mark.parametrize("text", ["{", "[3]", '[{"model": "x", "input_shape": [1]}]'])
def test_a_damaged_file_is_told(tmp_path, text):
    kept = Measurements(tmp_path)
    kept.path.write_text(text)
    with pytest.raises(UnsupportedOption, match="Delete the file"):
        kept.all()
