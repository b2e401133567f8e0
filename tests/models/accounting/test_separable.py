import pytest

from models.accounting.counting import profile
from models.accounting.separable import separable_pairs
from models.catalog import Catalog


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("mobilenet_v2", 17), ("mobilenet_v3_small", 11), ("mnasnet0_5", 17), ("efficientnet_b0", 16)],
)
def test_the_profile_of_separable_blocks_equals_the_formula(name, blocks):
    pairs = separable_pairs(profile(Catalog().find(name), follow=False).layers)
    assert len(pairs) == blocks
    for pair in pairs:
        kernel = pair.kernel[0] * pair.kernel[1]
        assert pair.multiply_adds == pair.positions * pair.channels_in * (kernel + pair.channels_out)
        assert pair.multiply_adds == pair.by_formula
        assert pair.full == pair.positions * pair.channels_in * pair.channels_out * kernel
        assert pair.share == pytest.approx(1 / pair.channels_out + 1 / kernel)


def test_ordinary_networks_have_no_such_blocks():
    assert separable_pairs(profile(Catalog().find("resnet18"), follow=False).layers) == []
    # Grouped convolutions are not depthwise ones.
    assert separable_pairs(profile(Catalog().find("resnext50_32x4d"), follow=False).layers) == []
