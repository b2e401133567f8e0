"""Tiles against the whole image."""

import numpy as np
import pytest
import torch

from models import tiling
from models.networks.unet import UNet
from models.tiling import Band, Blender, Resampler


def stitched(values_CHW, grid, predict):
    """Take an image through its tiles, two at a time; gives (K, H, W)."""
    blender, bands = None, []
    for tiles in grid.batches(2):
        outputs = predict(tiling.stack(grid, values_CHW, tiles))
        blender = blender or Blender(grid, outputs.shape[1])
        bands += [
            band for tile, out in zip(tiles, outputs, strict=True) if (band := blender.add(tile, out)) is not None
        ]
    assert [band.top for band in bands] == list(grid.y.starts)
    return np.concatenate([band.values for band in bands], axis=1)


@pytest.mark.parametrize(
    ("size_wh", "tile_px", "overlap", "multiple_px"),
    [
        ((100, 70), 32, 0.25, 1),
        ((100, 70), 32, 0.25, 16),
        ((33, 200), 32, 0.0, 4),
        ((97, 61), 40, 0.89, 8),
        ((31, 17), 64, 0.5, 32),
        ((1, 1), 32, 0.25, 16),
        ((500, 3), 33, 0.3, 7),
    ],
)
def test_blended_tiles_give_back_what_each_showed(size_wh, tile_px, overlap, multiple_px):
    random = np.random.default_rng(0)
    values = random.random((2, size_wh[1], size_wh[0]), dtype=np.float32)
    grid = tiling.plan(size_wh, tile_px=tile_px, overlap=overlap, multiple_px=multiple_px)
    np.testing.assert_allclose(stitched(values, grid, lambda tiles: tiles.numpy()), values, atol=1e-5)
    for axis in (grid.x, grid.y):
        assert axis.tile % multiple_px == 0
        assert all(start % multiple_px == 0 for start in axis.starts)
        assert axis.starts[-1] + axis.tile >= axis.length > axis.starts[-1] + axis.tile - multiple_px
        gaps = np.diff(axis.starts)
        assert (gaps > 0).all()
        assert (gaps <= max(axis.tile * (1 - overlap), multiple_px) + multiple_px).all()


def test_what_lies_at_a_tiles_inner_edges_does_not_count():
    values = np.ones((1, 64, 160), dtype=np.float32)
    grid = tiling.plan((160, 64), tile_px=64, overlap=0.25)

    def spoil(tiles):
        spoiled = tiles.numpy().copy()
        spoiled[:, :, :, :4] += 100
        spoiled[:, :, :, -4:] += 100
        return spoiled

    blended = stitched(values, grid, spoil)
    assert (blended[:, :, 4:-4] == 1).all()
    assert (blended[:, :, :4] > 99).all()


def test_a_tile_beyond_the_image_shows_its_reflection():
    values = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    grid = tiling.whole((4, 3), multiple_px=8)
    cut = grid.cut(values, tiling.Tile(0, 0))
    assert cut.shape == (1, 8, 8)
    assert cut[0, 0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
    assert cut[0, :, 0].tolist() == [0, 4, 8, 4, 0, 4, 8, 4]


def test_tiles_and_whole_image_agree_for_a_network_with_pooling():
    torch.manual_seed(3)
    network = UNet(num_classes=3, width=4, depth=2).eval()

    @torch.inference_mode()
    def predict(tiles):
        return network(tiles).softmax(dim=1).numpy()

    values = np.random.default_rng(1).random((1, 150, 210), dtype=np.float32)
    whole = stitched(values, tiling.whole((210, 150), multiple_px=4), predict)
    # The network sees 22 pixels far; a quarter of the overlap is thrown away.
    tiled = stitched(values, tiling.plan((210, 150), tile_px=112, overlap=0.8, multiple_px=4), predict)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("to_hw", [(50, 40), (17, 90), (1, 1), (200, 13), (64, 40)])
def test_rows_resized_as_they_come_equal_all_rows_resized_at_once(to_hw):
    values = np.random.default_rng(2).random((3, 50, 40), dtype=np.float32)
    resampler = Resampler((50, 40), to_hw)
    bands = [resampler.add(Band(top, values[:, top : top + 7])) for top in range(0, 50, 7)]
    bands = [band for band in bands if band is not None]
    assert [band.top for band in bands] == np.cumsum([0, *(band.values.shape[1] for band in bands[:-1])]).tolist()
    at_once = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=to_hw, mode="bilinear")[0].numpy()
    np.testing.assert_allclose(np.concatenate([band.values for band in bands], axis=1), at_once, atol=1e-5)
