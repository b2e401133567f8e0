"""The spatial transformer's quadrilaterals, rectified images and classes against known matrices."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from models.catalog import Catalog
from models.images import Decoded, decode
from models.recipes import stn_canvases
from visionpipe.errors import ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import SpatialTransformerOptions
from visionpipe.schemas.results import SpatialTransformerResult
from workers.hosted import HostedModel
from workers.runtime import run_batch
from workers.spatial_transformer import SpatialTransformerRuntime, looks_alike

CARD = """
name = "fixed"
tasks = ["spatial_transformer"]
network = "net:{network}"
licence = "CC0-1.0"
labels = ["dark", "grey", "bright"]
[preprocess]
{preprocess}
[arguments]
theta = {theta}
[provenance]
origin = "made for a test"
"""

NETWORK = """
import torch
from models.networks.stn import sample

class Fixed(torch.nn.Module):
    '''Attends to one place, and tells how bright it is there.'''

    def __init__(self, theta):
        super().__init__()
        self.register_buffer("theta", torch.tensor(theta).view(1, 2, 3))

    def forward(self, x_NCHW):
        theta = self.theta.expand(len(x_NCHW), 2, 3)
        rectified = sample(x_NCHW, theta, side_px=32)
        levels = torch.tensor([-1.0, 0.0, 1.0])
        return -10 * (rectified.mean((1, 2, 3))[:, None] - levels) ** 2, theta, rectified

class Endless(Fixed):
    def forward(self, x_NCHW):
        logits, theta, rectified = super().forward(x_NCHW)
        broken = (x_NCHW.mean((1, 2, 3)) > 0.99)[:, None, None]
        return logits, torch.where(broken, torch.inf, theta), rectified

class Flat(Fixed):
    def forward(self, x_NCHW):
        return super().forward(x_NCHW)[0]

class Narrow(Fixed):
    def forward(self, x_NCHW):
        logits, theta, rectified = super().forward(x_NCHW)
        return logits[:, :2], theta, rectified
"""

SQUARE = 'mode = "L"\nresize = [64, 64]\nmean = [0.5]\nstd = [0.5]'
CROPPED = 'mode = "L"\nresize = 64\ncrop = 56\nmean = [0.5]\nstd = [0.5]'
COLOUR = "resize = [64, 64]"
IDENTITY = [1.0, 0, 0, 0, 1.0, 0]


@pytest.fixture
def make_runtime(tmp_path: Path) -> Callable[..., SpatialTransformerRuntime]:
    def make(
        theta: list[float] = IDENTITY, *, preprocess: str = SQUARE, network: str = "Fixed", more: str = ""
    ) -> SpatialTransformerRuntime:
        folder = tmp_path / "fixed"
        folder.mkdir()
        card = CARD.format(network=network, preprocess=preprocess, theta=[float(value) for value in theta])
        (folder / "card.toml").write_text(card + more)
        (folder / "net.py").write_text(NETWORK)
        hosted = HostedModel(Catalog(tmp_path).find("fixed"), device="cpu")
        hosted.set_precision("fp32")
        return SpatialTransformerRuntime(hosted)

    return make


def make_work(image: Image.Image, **options: Any) -> Any:
    kept: list[tuple[bytes, str]] = []

    def keep(data: bytes, media_type: str) -> ArtifactRef:
        kept.append((data, media_type))
        return ArtifactRef(key=f"artifact:{len(kept):064x}", media_type=media_type, size_bytes=len(data))

    return SimpleNamespace(
        request=SimpleNamespace(options=SpatialTransformerOptions(**options)),
        image=Decoded(image),
        size_wh=image.size,
        keep=keep,
        kept=kept,
        ready_at=0.0,
        times_ms={},
    )


def answers(runtime: SpatialTransformerRuntime, works: list[Any]) -> list[Any]:
    for work in works:
        runtime.prepare(work)
    assert len({work.key for work in works}) == 1
    told = run_batch(runtime, works, lambda _: None)
    return [answer() if callable(answer) else answer for answer in told]


def answer(runtime: SpatialTransformerRuntime, image: Image.Image, **options: Any) -> tuple[Any, Any]:
    work = make_work(image, **options)
    return answers(runtime, [work])[0], work


def rectified_of(work: Any) -> Image.Image:
    ((data, media_type),) = work.kept
    assert media_type == "image/png"
    return Image.open(io.BytesIO(data))


def textured(size_wh: tuple[int, int] = (64, 64), mode: str = "L") -> Image.Image:
    shape = (*size_wh[::-1], 3) if mode == "RGB" else size_wh[::-1]
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, size=shape, dtype=np.uint8))


QUADS = {
    "all of a square picture": (SQUARE, (64, 64), IDENTITY, [(0, 0), (64, 0), (64, 64), (0, 64)]),
    "all of a wide picture": (SQUARE, (640, 200), IDENTITY, [(0, 0), (640, 0), (640, 200), (0, 200)]),
    "the middle of a tall picture": (
        SQUARE, (100, 300), [0.5, 0, 0, 0, 0.5, 0], [(25, 75), (75, 75), (75, 225), (25, 225)],
    ),
    "a quarter turn": (SQUARE, (200, 100), [0, -1, 0, 1, 0, 0], [(200, 0), (200, 100), (0, 100), (0, 0)]),
    "beyond the border": (SQUARE, (100, 100), [1, 0, 1, 0, 1, 0], [(50, 0), (150, 0), (150, 100), (50, 100)]),
    "a mirror": (SQUARE, (80, 40), [-1, 0, 0, 0, 1, 0], [(80, 0), (0, 0), (0, 40), (80, 40)]),
    # 64 px high, 128 px wide, of which columns 36 to 92 and rows 4 to 60 are seen; 5 pixels to each of these.
    "through a centre crop": (CROPPED, (640, 320), IDENTITY, [(180, 20), (460, 20), (460, 300), (180, 300)]),
}  # fmt: skip


@pytest.mark.parametrize(("preprocess", "size_wh", "theta", "corners"), QUADS.values(), ids=QUADS.keys())
def test_corners_are_original_pixels_in_the_order_of_the_rectified_image(
    make_runtime: Callable[..., Any], preprocess: str, size_wh: Any, theta: list[float], corners: Any
) -> None:
    told, _ = answer(make_runtime(theta, preprocess=preprocess), textured(size_wh))
    assert isinstance(told, SpatialTransformerResult)
    np.testing.assert_allclose(told.quad_xy, corners, atol=1e-3)
    assert np.array(told.theta).flatten().tolist() == pytest.approx(theta)
    assert told.image_size_wh == size_wh


@pytest.mark.parametrize("size_wh", [(64, 64), (300, 180), (150, 400)], ids=str)
def test_what_is_marked_at_a_corner_in_the_picture_is_at_that_corner_of_the_rectified_image(
    make_runtime: Callable[..., Any], size_wh: tuple[int, int]
) -> None:
    runtime = make_runtime([0.4, -0.3, 0.1, 0.25, 0.45, -0.2])
    quad_xy = answer(runtime, Image.new("L", size_wh))[0].quad_xy
    for number, (corner_x, corner_y) in enumerate(quad_xy):
        image = Image.new("L", size_wh)
        reach = np.array(size_wh) / 8
        box = (corner_x - reach[0], corner_y - reach[1], corner_x + reach[0], corner_y + reach[1])
        ImageDraw.Draw(image).ellipse(box, fill=255)
        seen = np.asarray(rectified_of(answer(runtime, image)[1]))
        corners = [seen[0, 0], seen[0, -1], seen[-1, -1], seen[-1, 0]]
        assert [int(level) > 128 for level in corners] == [index == number for index in range(4)]


def test_corners_lie_in_the_upright_picture_whatever_its_exif_says(make_runtime: Callable[..., Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    textured((120, 80)).save(stream, "JPEG", exif=exif)
    upright = decode(stream.getvalue(), max_bytes=10**6, max_pixels=10**6).image
    told, _ = answer(make_runtime(), upright)
    np.testing.assert_allclose(told.quad_xy, [(0, 0), (80, 0), (80, 120), (0, 120)], atol=1e-3)


def test_the_rectified_picture_is_the_patch_that_theta_frames(make_runtime: Callable[..., Any]) -> None:
    image = textured()
    told, work = answer(make_runtime([0.5, 0, 0.25, 0, 0.5, -0.125]), image)
    assert np.array_equal(np.asarray(rectified_of(work)), np.asarray(image)[12:44, 24:56])
    assert told.rectified.media_type == "image/png"
    assert told.quad_xy[0] == pytest.approx((24, 12))


def test_a_network_that_sees_colours_gives_a_rectified_picture_in_colour(make_runtime: Callable[..., Any]) -> None:
    image = textured(mode="RGB")
    _, work = answer(make_runtime([0.5, 0, -0.5, 0, 0.5, 0.5], preprocess=COLOUR), image)
    picture = rectified_of(work)
    assert picture.mode == "RGB"
    difference = np.asarray(picture).astype(int) - np.asarray(image)[32:, :32]
    assert np.abs(difference).max() <= 1


def test_images_of_one_batch_have_options_and_answers_of_their_own(make_runtime: Callable[..., Any]) -> None:
    cases = [(0, {"top_k": 1}), (128, {"top_k": 3, "rectified": False}), (255, {"top_k": 2})]
    works = [make_work(Image.new("L", (20, 30), level), **options) for level, options in cases]
    told = answers(make_runtime(), works)
    assert [one.top.label for one in told] == ["dark", "grey", "bright"]
    assert [len(one.classes) for one in told] == [1, 3, 2]
    assert [one.rectified is not None for one in told] == [True, False, True]
    assert [len(work.kept) for work in works] == [1, 0, 1]
    assert sum(entry.score for entry in told[1].classes) == pytest.approx(1, abs=1e-5)


def test_more_classes_than_there_are_gives_all_there_are(make_runtime: Callable[..., Any]) -> None:
    assert len(answer(make_runtime(), textured(), top_k=1000)[0].classes) == 3


def test_nothing_is_encoded_on_the_device_thread(make_runtime: Callable[..., Any]) -> None:
    runtime, work = make_runtime(), make_work(textured())
    runtime.prepare(work)
    (deferred,) = runtime.results(runtime.forward([work]), [work])
    assert callable(deferred)
    assert work.kept == []
    assert deferred().rectified is not None


def test_an_endless_matrix_fails_its_own_image_alone(make_runtime: Callable[..., Any]) -> None:
    works = [make_work(Image.new("L", (64, 64), level)) for level in (255, 100)]
    broken, whole = answers(make_runtime(network="Endless"), works)
    assert isinstance(broken, ArithmeticError)
    assert isinstance(whole, SpatialTransformerResult)


@pytest.mark.parametrize("network", ["Flat", "Narrow"])
def test_a_network_that_answers_otherwise_is_refused_at_warm_up(make_runtime: Callable[..., Any], network: str) -> None:
    with pytest.raises(ModelLoadError, match=r"Expected logits \(N, 3\), theta \(N, 2, 3\)"):
        make_runtime(network=network).warm_up(2)


def test_a_preprocess_hook_is_refused_since_it_hides_where_things_were(make_runtime: Callable[..., Any]) -> None:
    runtime = make_runtime(more='[hooks]\npreprocess = "net:sample"\n')
    with pytest.raises(ModelLoadError, match="preprocess hook"):
        runtime.warm_up(1)


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.0, True), (0.02, True), (0.05, False), (float("nan"), False)], ids=str
)
def test_matrices_agree_within_the_stated_tolerance(difference: float, verdict: bool) -> None:
    exact = torch.rand(3, 2, 3)
    quick = exact.clone()
    quick[1, 1, 2] += difference
    assert looks_alike(exact, quick) is verdict


def test_parity_holds_with_itself_and_looks_at_theta(make_runtime: Callable[..., Any]) -> None:
    runtime = make_runtime()
    assert runtime.parity("fp32")
    runtime.hosted.master.theta.add_(0.05)
    exact, in_precision = runtime.hosted.master, runtime.hosted.in_precision
    moved = in_precision("fp32")
    moved.theta.add_(0.05)
    runtime.hosted.in_precision = lambda _: moved
    assert exact is runtime.hosted.master
    assert not runtime.parity("fp32")


@pytest.fixture(scope="module")
def bundled() -> SpatialTransformerRuntime:
    hosted = HostedModel(Catalog().find("stn-digits"), device="cpu")
    hosted.set_precision("fp32")
    return SpatialTransformerRuntime(hosted)


def test_the_bundled_model_looks_at_the_digit_and_reads_it(bundled: SpatialTransformerRuntime) -> None:
    canvases = stn_canvases.examples(60)
    # Enlarged and stretched, as a photograph of another size would be.
    size_wh = (256, 192)
    works = [make_work(Image.fromarray(levels).resize(size_wh)) for levels in canvases.levels()]
    told = answers(bundled, works)
    truth = canvases.quads_xy() * np.array(size_wh) / stn_canvases.CANVAS_PX
    distance = np.linalg.norm(np.array([one.quad_xy for one in told]).mean(axis=1) - truth.mean(axis=1), axis=1)
    assert np.mean(distance < 32) > 0.9
    assert np.mean([one.top.class_id == target for one, target in zip(told, canvases.targets, strict=True)]) > 0.9
    assert rectified_of(works[0]).size == (32, 32)


def test_the_bundled_model_answers_alike_in_bf16_and_for_any_batch(bundled: SpatialTransformerRuntime) -> None:
    bundled.warm_up(3)
    assert bundled.parity("bf16")
    levels = stn_canvases.examples(4).levels()
    together = answers(bundled, [make_work(Image.fromarray(one)) for one in levels])
    for one, expected in zip(levels, together, strict=True):
        alone, _ = answer(bundled, Image.fromarray(one))
        assert np.abs(np.array(alone.theta) - np.array(expected.theta)).max() < 1e-4
        assert alone.top.class_id == expected.top.class_id
