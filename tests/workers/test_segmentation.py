"""Segmentation's options against pictures whose every pixel is known."""

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
from models.images import Decoded
from models.loading import load
from models.preprocess import Preprocess
from models.tiling import Band
from visionpipe.errors import ImageTooLargeError, InvalidRequestError, ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import SegmentationOptions
from workers import segmentation_input, segmentation_maps
from workers.hosted import HostedModel
from workers.runtime import run_batch
from workers.segmentation import SegmentationRuntime, agrees

CARD = """
name = "{name}"
tasks = ["segmentation"]
network = "net:{network}"
licence = "CC0-1.0"
labels = {labels}
{more}
[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]
{preprocess}
[segmentation]
tile_px = 128
{segmentation}
[provenance]
origin = "made for a test"
"""

NETWORK = """
import torch

class Levels(torch.nn.Module):
    '''Class k is a level of grey: 0, a half, 1.'''

    def forward(self, x_NCHW):
        levels = torch.tensor([0.0, 0.5, 1.0], dtype=x_NCHW.dtype).view(1, 3, 1, 1)
        return -100 * (x_NCHW - levels) ** 2

class Field(Levels):
    def forward(self, x_NCHW):
        return {"out": super().forward(x_NCHW), "aux": None}

class Binary(torch.nn.Module):
    def forward(self, x_NCHW):
        return 20 * (x_NCHW - 0.75)

class Coarse(Levels):
    def forward(self, x_NCHW):
        return super().forward(x_NCHW)[..., ::2, ::2]

class Broken(Levels):
    def forward(self, x_NCHW):
        return super().forward(x_NCHW) * torch.nan

def own(image):
    return torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).reshape(
        1, image.height, image.width) / 255

def swapped(outputs):
    return outputs.flip(1)
"""

BACKGROUND, GREY, WHITE = range(3)
DISCS = [(40, 40, 20), (120, 60, 12), (160, 100, 6)]
SQUARE = (20, 80, 51, 111)
SIZE_WH = (200, 130)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SegmentationRuntime]:
    def make_runtime(
        network: str = "Levels",
        *,
        labels: str = '["background", "square", "disc"]',
        more: str = "",
        preprocess: str = "",
        segmentation: str = "",
    ) -> SegmentationRuntime:
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        card = CARD.format(
            name="made", network=network, labels=labels, more=more, preprocess=preprocess, segmentation=segmentation
        )
        (folder / "card.toml").write_text(card)
        (folder / "net.py").write_text(NETWORK)
        hosted = HostedModel(Catalog(tmp_path).find("made"), device="cpu")
        hosted.set_precision("fp32")
        runtime = SegmentationRuntime(hosted)
        runtime.warm_up(1)
        return runtime

    return make_runtime


@pytest.fixture
def runtime(make: Callable[..., SegmentationRuntime]) -> SegmentationRuntime:
    return make()


def picture(size_wh: tuple[int, int] = SIZE_WH) -> Image.Image:
    """Draw three white discs and a grey square."""
    image = Image.new("L", size_wh)
    draw = ImageDraw.Draw(image)
    for x, y, radius in DISCS:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    draw.rectangle((SQUARE[0], SQUARE[1], SQUARE[2] - 1, SQUARE[3] - 1), fill=128)
    return image


def make_work(image: Image.Image, **options: Any) -> Any:
    kept: dict[str, bytes] = {}

    def keep(data: bytes, media_type: str) -> ArtifactRef:
        key = f"artifact:{len(kept):064x}"
        kept[key] = data
        return ArtifactRef(key=key, media_type=media_type, size_bytes=len(data))

    return SimpleNamespace(
        request=SimpleNamespace(options=SegmentationOptions(**options), task="segmentation"),
        image=Decoded(image),
        size_wh=image.size,
        keep=keep,
        kept=kept,
        is_long=False,
        stopping=False,
        ready_at=0.0,
        times_ms={},
    )


def ended(runtime: SegmentationRuntime, work: Any, *, stop_after: int | None = None) -> tuple[Any, list[Progress]]:
    """Take prepared work to its result; gives what was told on the way, too."""
    told: list[Progress] = []
    if not work.is_long:
        (answer,) = run_batch(runtime, [work], lambda _: None)
    else:
        steps = runtime.steps(work)
        try:
            while True:
                told.append(next(steps))
                work.stopping = len(told) == stop_after
        except StopIteration as end:
            answer = end.value
    result: Any = answer() if callable(answer) else answer
    return result.bind(lambda ref: work.kept[ref.key]) if not isinstance(result, BaseException) else result, told


def segment(runtime: SegmentationRuntime, image: Image.Image | None = None, **options: Any) -> Any:
    work = make_work(image or picture(), **{"tile_px": 512, **options})
    runtime.prepare(work)
    return ended(runtime, work)[0]


def true_classes(image: Image.Image) -> Any:
    return np.rint(np.asarray(image) / 127.5).astype(int)


def test_every_pixel_has_its_class_and_every_object_its_measures(runtime: SegmentationRuntime) -> None:
    image = picture()
    result = segment(runtime, image)
    true = true_classes(image)
    assert (result.label_array() == true).all()
    assert result.image_size_wh == SIZE_WH
    assert [(entry.label, entry.area_px) for entry in result.classes] == [
        (label, int((true == class_id).sum()))
        for class_id, label in ((BACKGROUND, "background"), (WHITE, "disc"), (GREY, "square"))
    ]
    assert sum(entry.fraction for entry in result.classes) == pytest.approx(1)
    assert [one.label for one in result.instances] == ["disc", "square", "disc", "disc"]
    square = result.instances[1]
    assert square.box_xyxy == SQUARE
    assert square.area_px == 31 * 31
    assert square.centroid_xy == ((SQUARE[0] + SQUARE[2]) / 2, (SQUARE[1] + SQUARE[3]) / 2)
    assert square.score == pytest.approx(1, abs=0.01)
    assert result.num_tiles == 1
    assert result.instance_map is result.probabilities is square.rle is None


def test_images_of_one_size_share_a_batch_and_keep_their_own_options(runtime: SegmentationRuntime) -> None:
    works = [make_work(picture(), tile_px=512, instances=False), make_work(picture(), tile_px=512, classes=["disc"])]
    for work in works:
        runtime.prepare(work)
    assert works[0].key == works[1].key
    assert works[0].num_pixels == SIZE_WH[0] * SIZE_WH[1]
    answers: list[Any] = run_batch(runtime, works, lambda _: None)
    first, second = (answer() for answer in answers)
    assert first.instances is None
    assert len(second.instances) == 3


@pytest.mark.parametrize("classes", [["disc"], [WHITE], ["disc", WHITE]])
def test_other_classes_become_background(runtime: SegmentationRuntime, classes: list[Any]) -> None:
    result = segment(runtime, classes=classes)
    true = true_classes(picture())
    assert (result.label_array() == np.where(true == WHITE, WHITE, BACKGROUND)).all()
    assert {one.label for one in result.instances} == {"disc"}
    assert [entry.label for entry in result.classes] == ["background", "disc"]


def test_a_class_that_the_model_does_not_know_is_refused(runtime: SegmentationRuntime) -> None:
    with pytest.raises(InvalidRequestError, match="disc"):
        segment(runtime, classes=["disk"])


def test_improbable_pixels_become_background(runtime: SegmentationRuntime) -> None:
    image = picture()
    image.paste(192, (170, 10, 190, 30))
    assert segment(runtime, image).label_array()[20, 180] == WHITE
    result = segment(runtime, image, score_threshold=0.7)
    assert result.label_array()[20, 180] == BACKGROUND
    assert len(result.instances) == 4


@pytest.mark.parametrize("scale", [0.5, 0.8, 2.0, 3.3])
def test_answers_are_in_original_pixels_at_any_scale(runtime: SegmentationRuntime, scale: float) -> None:
    image = picture()
    result = segment(runtime, image, scale=scale, classes=["disc"])
    assert result.label_array().shape == (SIZE_WH[1], SIZE_WH[0])
    assert len(result.instances) == 3
    for (x, y, radius), one in zip(DISCS, result.instances, strict=True):
        assert one.box_xyxy == pytest.approx((x - radius, y - radius, x + radius + 1, y + radius + 1), abs=2)
        assert one.centroid_xy == pytest.approx((x + 0.5, y + 0.5), abs=0.5)


def test_a_scale_that_would_fill_the_memory_is_refused(
    runtime: SegmentationRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_input, "MAX_INPUT_PIXELS", 10**5)
    segment(runtime, scale=1.5)
    with pytest.raises(ImageTooLargeError, match="600x390"):
        segment(runtime, scale=3)


def test_tiles_give_what_the_whole_image_gives(runtime: SegmentationRuntime) -> None:
    whole = segment(runtime)
    work = make_work(picture(), tile_px=64, tile_overlap=0.5, instance_map=True)
    runtime.prepare(work)
    assert work.is_long
    result, told = ended(runtime, work)
    assert result.num_tiles == 6 * 4
    assert (result.label_array() == whole.label_array()).all()
    assert result.instances == whole.instances
    assert [step.total for step in told] == [24] * len(told)
    assert told[-1].done == 24
    assert told[-1].eta_s == 0
    assert not result.partial


def test_the_models_own_tiles_are_used_where_an_image_needs_them(runtime: SegmentationRuntime) -> None:
    for size_wh, num_tiles in (((128, 128), 1), ((129, 100), 2), ((200, 130), 4)):
        work = make_work(picture(size_wh))
        runtime.prepare(work)
        assert work.is_long is (num_tiles > 1)
        assert len(work.prepared.grid.tiles) == num_tiles


def test_more_overlap_takes_more_tiles(runtime: SegmentationRuntime) -> None:
    counts = [segment(runtime, tile_px=64, tile_overlap=overlap).num_tiles for overlap in (0.0, 0.5, 0.8)]
    assert counts == sorted(set(counts))


def test_before_long_work_begins_its_tiles_are_counted_and_timed(runtime: SegmentationRuntime) -> None:
    work = make_work(picture(), tile_px=64)
    runtime.prepare(work)
    estimate = runtime.estimate(work)
    assert estimate.total == len(work.prepared.grid.tiles)
    assert estimate.eta_s is not None
    assert 0 < estimate.eta_s < 60


@pytest.mark.parametrize(("steps", "rows"), [(0, 0), (1, 0), (2, 33), (5, 66)])
def test_stopped_work_hands_over_the_rows_it_has(
    runtime: SegmentationRuntime, steps: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_tiles_per_step", lambda _: 2)
    work = make_work(picture(), tile_px=64, tile_overlap=0.0)
    runtime.prepare(work)
    work.stopping = steps == 0
    result, told = ended(runtime, work, stop_after=steps)
    assert result.partial
    assert len(told) == steps
    found = result.label_array()
    assert (found[:rows] == true_classes(picture())[:rows]).all()
    assert not found[rows:].any()


def test_a_step_without_memory_is_halved(runtime: SegmentationRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, sizes = runtime._predict, []

    def small(values: torch.Tensor) -> Any:
        sizes.append(len(values))
        if len(values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(values)

    monkeypatch.setattr(runtime, "_tiles_per_step", lambda _: 3)
    monkeypatch.setattr(runtime, "_predict", small)
    result = segment(runtime, tile_px=64)
    assert (result.label_array() == true_classes(picture())).all()
    assert {1, 2, 3} == set(sizes)


def test_a_failing_step_is_no_lack_of_memory(runtime: SegmentationRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(values: torch.Tensor) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(runtime, "_predict", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        segment(runtime, tile_px=64)


def test_small_objects_are_neither_counted_nor_listed(runtime: SegmentationRuntime) -> None:
    result = segment(runtime, min_area_px=200, instance_map=True)
    assert [one.label for one in result.instances] == ["disc", "square", "disc"]
    assert result.instance_array().max() == 3


def test_masks_and_the_map_of_instances_name_the_same_pixels(runtime: SegmentationRuntime) -> None:
    result = segment(runtime, rle=True, instance_map=True)
    numbers = result.instance_array()
    assert numbers.dtype == np.uint16
    for one in result.instances:
        assert (one.mask_array() == (numbers == one.instance_id)).all()
        assert one.rle.area() == one.area_px
    assert ((numbers > 0) == (true_classes(picture()) > 0)).all()


def test_a_map_of_instances_may_be_had_without_the_list(runtime: SegmentationRuntime) -> None:
    result = segment(runtime, instances=False, instance_map=True)
    assert result.instances is None
    assert result.instance_array().max() == 4


def test_more_objects_than_a_picture_can_number_are_refused(
    runtime: SegmentationRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_maps, "MAX_NUMBERED", 3)
    with pytest.raises(InvalidRequestError, match="at most 3 objects in a map of instances, found 4"):
        segment(runtime, instance_map=True)
    assert len(segment(runtime).instances) == 4


@pytest.mark.parametrize("tile_px", [512, 64])
def test_probabilities_are_those_of_plain_torch(runtime: SegmentationRuntime, tile_px: int) -> None:
    image = picture()
    found = segment(runtime, image, probabilities=True, tile_px=tile_px).probability_array()
    inputs = Preprocess(runtime.hosted.card.preprocess)(image)[None]
    expected = runtime.hosted.master(inputs).softmax(1)[0].numpy()
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_probabilities_too_large_to_keep_are_refused_before_anything_is_computed(
    runtime: SegmentationRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_maps, "MAX_PROBABILITIES_BYTES", 10**5)
    with pytest.raises(InvalidRequestError, match="3 classes of 200x130 pixels take 156000"):
        runtime.prepare(make_work(picture(), probabilities=True))


def test_a_border_class_keeps_touching_objects_apart(make: Callable[..., SegmentationRuntime]) -> None:
    runtime = make(labels='["background", "border", "cell"]', segmentation="border = 1")
    image = Image.new("L", (100, 60))
    draw = ImageDraw.Draw(image)
    for x in (30, 61):
        draw.ellipse((x - 16, 14, x + 16, 46), fill=128)
        draw.ellipse((x - 12, 18, x + 12, 42), fill=255)
    for classes in (None, ["cell"]):
        result = segment(runtime, image, classes=classes)
        assert [one.label for one in result.instances] == ["cell", "cell"]
        # Border pixels belong to the objects, although the label map names them otherwise or not at all.
        assert sum(one.area_px for one in result.instances) == int((np.asarray(image) > 0).sum())
        assert {entry.label for entry in result.classes} == {"background", "cell"} | (
            {"border"} if not classes else set()
        )


def test_a_picture_is_resized_as_the_card_says_and_boxes_come_back(make: Callable[..., SegmentationRuntime]) -> None:
    runtime = make(preprocess="resize = 65", segmentation="multiple_px = 32")
    work = make_work(picture(), classes=["disc"])
    runtime.prepare(work)
    assert work.prepared.size_hw == (65, 100)
    assert work.prepared.grid.tile_hw == (96, 128)
    result = ended(runtime, work)[0]
    for (x, y, radius), one in zip(DISCS, result.instances, strict=True):
        assert one.box_xyxy == pytest.approx((x - radius, y - radius, x + radius + 1, y + radius + 1), abs=2)


def test_logits_may_lie_in_the_field_out(make: Callable[..., SegmentationRuntime]) -> None:
    assert (segment(make("Field")).label_array() == true_classes(picture())).all()


def test_one_logit_means_two_classes(make: Callable[..., SegmentationRuntime]) -> None:
    result = segment(make("Binary", labels='["background", "disc"]'), probabilities=True)
    assert (result.label_array() == (true_classes(picture()) == WHITE)).all()
    white = 1 / (1 + np.exp(-20 * 0.25))
    assert result.probability_array()[:, 40, 40] == pytest.approx([1 - white, white], abs=1e-3)


def test_own_code_may_stand_around_the_network(make: Callable[..., SegmentationRuntime]) -> None:
    runtime = make(more='hooks = { preprocess = "net:own", postprocess = "net:swapped" }')
    assert (segment(runtime).label_array() == 2 - true_classes(picture())).all()
    with pytest.raises(InvalidRequestError, match="scale of 1, got 2"):
        segment(runtime, scale=2)


def test_a_card_that_crops_is_refused(make: Callable[..., SegmentationRuntime]) -> None:
    with pytest.raises(ModelLoadError, match="no crop"):
        make(preprocess="crop = 64")


@pytest.mark.parametrize(
    ("network", "labels"), [("Coarse", "[]"), ("Levels", '["a", "b"]'), ("Binary", '["a", "b", "c"]')]
)
def test_outputs_that_fit_neither_input_nor_labels_are_refused_at_warm_up(
    make: Callable[..., SegmentationRuntime], network: str, labels: str
) -> None:
    with pytest.raises(ModelLoadError, match="Expected logits of shape"):
        make(network, labels=labels)


@pytest.mark.parametrize("tile_px", [512, 64])
def test_numbers_that_are_none_are_no_answer(make: Callable[..., SegmentationRuntime], tile_px: int) -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        segment(make("Broken"), tile_px=tile_px)


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 300), (5, 3)])
def test_tiny_and_thin_pictures_are_padded(make: Callable[..., SegmentationRuntime], size_wh: tuple[int, int]) -> None:
    result = segment(make(segmentation="multiple_px = 16"), Image.new("L", size_wh, 255))
    assert (result.label_array() == WHITE).all()
    assert result.label_array().shape == size_wh[::-1]
    assert result.instances[0].area_px == size_wh[0] * size_wh[1]


def test_the_bundled_model_separates_two_touching_cells() -> None:
    hosted = HostedModel(Catalog().find("unet-cells"), device="cpu")
    hosted.set_precision("fp32")
    image = Image.new("L", (160, 120), 60)
    draw = ImageDraw.Draw(image)
    for x in (55, 96):
        draw.ellipse((x - 20, 40, x + 20, 80), fill=190, outline=120)
    result = segment(SegmentationRuntime(hosted), image.convert("RGB"), min_area_px=100)
    assert [one.label for one in result.instances] == ["interior"] * 2
    assert sorted(one.centroid_xy[0] for one in result.instances) == pytest.approx([55, 96], abs=2)
    assert all(one.area_px == pytest.approx(np.pi * 20**2, rel=0.15) for one in result.instances)


def test_the_bundled_model_answers_what_its_network_says() -> None:
    hosted = HostedModel(Catalog().find("unet-cells"), device="cpu")
    hosted.set_precision("fp32")
    levels = np.random.default_rng(0).integers(0, 255, size=(48, 64), dtype=np.uint8)
    found = segment(SegmentationRuntime(hosted), Image.fromarray(levels)).label_array()
    inputs = (torch.from_numpy(levels.astype(np.float32))[None, None] / 255 - 0.5) / 0.25
    expected = load(hosted.entry)(inputs).argmax(dim=1)[0].numpy()
    assert (found == expected).mean() > 0.999


PAIRS = {
    "equal": ([0.7, 0.3], [0.7, 0.3], True),
    "close": ([0.7, 0.3], [0.695, 0.305], True),
    "far": ([0.9, 0.1], [0.8, 0.2], False),
    "turned": ([0.53, 0.47], [0.495, 0.505], False),
    "tie": ([0.504, 0.496], [0.496, 0.504], True),
    "nan": ([0.7, 0.3], [float("nan"), 0.3], False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_precisions_agree_within_the_stated_tolerance(name: str) -> None:
    exact, quick, verdict = PAIRS[name]
    maps = [torch.tensor(values).view(1, 2, 1, 1).expand(1, 2, 8, 8) for values in (exact, quick)]
    assert agrees(*maps) is verdict


def test_parity_of_a_model_with_itself_holds(make: Callable[..., SegmentationRuntime]) -> None:
    assert make("Levels").parity("fp32")
    assert not make("Broken").parity("fp32")


def test_artifacts_are_pictures_and_arrays_that_any_tool_reads(runtime: SegmentationRuntime) -> None:
    work = make_work(picture(), tile_px=512, instance_map=True, probabilities=True)
    runtime.prepare(work)
    result, _ = ended(runtime, work)
    kinds = {path: ref.media_type for path, ref in result.artifacts()}
    assert kinds == {"label_map": "image/png", "instance_map": "image/png", "probabilities": "application/x-npy"}
    assert Image.open(io.BytesIO(work.kept[result.label_map.key])).size == SIZE_WH
    assert np.load(io.BytesIO(work.kept[result.probabilities.key])).shape == (3, SIZE_WH[1], SIZE_WH[0])


def test_the_best_class_of_each_pixel_is_what_the_probabilities_say() -> None:
    logits_NKHW = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
    probabilities_NKHW = logits_NKHW.softmax(dim=1)
    packed_N2HW = segmentation_maps.best(probabilities_NKHW.clone()).numpy()
    for packed_2HW, probabilities_KHW in zip(packed_N2HW, probabilities_NKHW.numpy(), strict=True):
        whole, taken = (
            segmentation_maps.Maps((6, 7), (7, 6), 4, background=0, options=SegmentationOptions()) for _ in range(2)
        )
        whole.add(Band(0, probabilities_KHW))
        taken.take(*packed_2HW)
        assert np.array_equal(whole.classes_HW, taken.classes_HW)
        assert np.array_equal(whole.scores_HW, taken.scores_HW)


def test_the_best_class_of_what_is_no_number_is_an_error() -> None:
    probabilities_NKHW = torch.full((1, 3, 2, 2), 1 / 3)
    probabilities_NKHW[0, :, 1, 1] = torch.nan
    maps = segmentation_maps.Maps((2, 2), (2, 2), 3, background=0, options=SegmentationOptions())
    with pytest.raises(ArithmeticError, match="not finite"):
        maps.take(*segmentation_maps.best(probabilities_NKHW)[0].numpy())
