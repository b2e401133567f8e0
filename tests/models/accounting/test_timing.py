import pytest
import torch

from models.accounting.counting import profile
from models.accounting.device import Roofline, device_name, measure_roofline
from models.accounting.timing import Measured, assign, measure, moved_bytes, shares
from models.catalog import Catalog

ENTRY = Catalog().find("lenet-digits")
CPU = torch.device("cpu")


def test_every_run_of_a_module_is_timed_and_set_against_the_roofline(monkeypatch):
    monkeypatch.setattr("models.accounting.device.PRODUCT_SIDES", (256,))
    monkeypatch.setattr("models.accounting.device.COPIED_BYTES", 1 << 22)
    counted = profile(ENTRY)
    measured = measure(ENTRY, counted.input_shape, CPU, batch=4, runs=3)
    assign(counted, measured)
    timed = [layer.time_ms for layer in counted.layers]
    assert all(milliseconds > 0 for milliseconds in timed)
    assert ("activation", 3) in measured.layers_ms
    assert measured.spread_ms[0] <= measured.total_ms <= measured.spread_ms[1]
    assert sum(timed) <= measured.sum_ms
    assert measured.device == device_name(CPU)
    found = shares(counted, measured)
    assert set(found) == {(layer.name, layer.call) for layer in counted.layers}
    assert all(share.share > 0 for share in found.values())
    assert found["activation", 0].bound == "memory"


def test_the_roofline_says_what_limits_and_how_near_a_layer_comes():
    counted = profile(ENTRY)
    roofline = Roofline("a device", "fp32", multiply_adds_per_s=1e9, bytes_per_s=1e8)
    times = {(layer.name, layer.call): 1.0 for layer in counted.layers}
    measured = Measured("a device", "fp32", 2, 3, 1.0, (1.0, 1.0), roofline, times)
    found = shares(counted, measured)
    first = counted.layers[0]
    num_bytes = 4 * (2 * (32 * 32 + 6 * 28 * 28) + 150 + 6)
    assert moved_bytes(first, measured) == num_bytes
    assert found["c1", 0].intensity == pytest.approx(2 * first.multiply_adds / num_bytes)
    # 0.47 ms of moving against 0.24 ms of computing, and it took 1 ms.
    assert found["c1", 0].bound == "memory"
    assert found["c1", 0].share == pytest.approx(num_bytes / 1e8 / 1e-3)
    assert roofline.attainable_s(5e9, 1e8) == 5.0
    assert roofline.ridge == 10


def test_half_the_width_moves_half_the_bytes():
    counted = profile(ENTRY)
    wide, narrow = (Measured("one", precision, 1, 3, 1.0, (1.0, 1.0)) for precision in ("fp32", "bf16"))
    assert moved_bytes(counted.layers[0], narrow) == moved_bytes(counted.layers[0], wide) / 2


def test_a_device_is_measured_as_something_that_computes_and_copies(monkeypatch):
    monkeypatch.setattr("models.accounting.device.PRODUCT_SIDES", (128, 256))
    monkeypatch.setattr("models.accounting.device.COPIED_BYTES", 1 << 22)
    found = measure_roofline(CPU, "fp32")
    assert found.multiply_adds_per_s > 1e6
    assert found.bytes_per_s > 1e6
