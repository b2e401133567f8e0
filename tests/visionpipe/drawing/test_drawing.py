"""Drawings: the right pixels in the right colours, on images of any size, kind and orientation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.results import SAMPLES, halves, png
from visionpipe.drawing import class_color, open_canvas, sheet
from visionpipe.drawing.colors import NUM_COLORS, text_color
from visionpipe.drawing.strips import diverging, heat_strip
from visionpipe.drawing.text import shortened, width_of, wrapped
from visionpipe.errors import (
    ImageMismatchError,
    ImageNotFoundError,
    InvalidImageError,
    UnsupportedImageError,
)
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import ClassificationResult, ClassScore, Detection, DetectionResult, Result

GREY = (90, 90, 90)


def bound(task: str, size_wh: tuple[int, int]) -> Result:
    kept: dict[str, bytes] = {}

    def put(data: bytes, media_type: str) -> ArtifactRef:
        ref = ArtifactRef(key=f"artifact:{len(kept):064x}", media_type=media_type, size_bytes=len(data))
        kept[ref.key] = data
        return ref

    return SAMPLES[task](size_wh, put).bind(lambda ref: kept[ref.key])


def near(pixel, color, tolerance=12) -> bool:
    return bool(np.abs(np.asarray(pixel, int)[:3] - np.asarray(color, int)).max() <= tolerance)


def box(xyxy, class_id=3, label="thing") -> Detection:
    return Detection(box_xyxy=xyxy, class_id=class_id, label=label, score=0.9)


@pytest.mark.parametrize("size_wh", [(8, 8), (1, 1), (300, 7), (7, 300), (640, 480), (1200, 900)], ids=str)
@pytest.mark.parametrize("task", SAMPLES)
def test_every_task_is_drawn_on_images_of_any_size(task, size_wh):
    if task == "segmentation" and min(size_wh) == 1:
        pytest.skip("the sample has no object there")
    result = bound(task, size_wh)
    drawing = result.draw(Image.new("RGB", size_wh, GREY))
    assert drawing.mode == "RGB"
    if task not in ("style_transfer", "feature_visualization", "adversarial"):
        assert max(drawing.size) >= max(384, max(size_wh))
    small = result.draw(Image.new("RGB", size_wh, GREY), max_side_px=512)
    assert max(small.size) <= 2500


def test_boxes_lie_where_they_are_in_the_original_image():
    drawing = np.asarray(
        DetectionResult(image_size_wh=(100, 50), detections=[box((20.0, 30.0, 60.0, 45.0))]).draw(
            Image.new("RGB", (100, 50), GREY)
        )
    )
    height, width = drawing.shape[:2]
    scale = width / 100
    assert (scale, height / 50) == (4.0, 4.0)
    color = np.array(class_color(3))
    rows, columns = np.nonzero((np.abs(drawing.astype(int) - color).max(2) < 8)[int(30 * scale) + 4 :])
    assert abs(columns.min() / scale - 20) < 1
    assert abs(columns.max() / scale - 60) < 1
    assert abs((rows.max() + int(30 * scale) + 4) / scale - 45) < 1


def test_a_drawing_made_small_shows_the_same_places():
    result = DetectionResult(image_size_wh=(2000, 1000), detections=[box((1000.0, 500.0, 2000.0, 1000.0))])
    drawing = np.asarray(result.draw(Image.new("RGB", (2000, 1000), GREY), max_side_px=400))
    assert drawing.shape == (200, 400, 3)
    assert near(drawing[150, 200], class_color(3))
    assert near(drawing[150, 190], GREY)


def test_a_class_has_one_colour_in_every_task():
    classes = [ClassScore(class_id=1, label="cell", score=1.0)]
    banner = np.asarray(ClassificationResult(classes=classes).draw(Image.new("RGB", (400, 400), GREY)))
    assert near(banner[400:].reshape(-1, 3), class_color(1), 0) or (
        (np.abs(banner[400:].astype(int) - class_color(1)).max(2) == 0).sum() > 50
    )
    boxes = np.asarray(
        DetectionResult(detections=[box((50.0, 50.0, 350.0, 350.0), 1)]).draw(Image.new("RGB", (400, 400), GREY))
    )
    assert near(boxes[200, 50], class_color(1), 0)
    outlines = np.asarray(bound("segmentation", (400, 400)).draw(Image.new("RGB", (400, 400), GREY)))
    assert near(outlines[200, 50], class_color(1), 0)


def test_colours_differ_and_text_on_them_can_be_read():
    colors = [class_color(index) for index in range(12)]
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(distances) > 40
    assert class_color(NUM_COLORS + 5) == class_color(5)
    for color in (class_color(index) for index in range(NUM_COLORS)):
        ink = np.array(text_color(color)) / 255
        lights = [0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2 for r, g, b in (ink, np.array(color) / 255)]
        assert (max(lights) + 0.05) / (min(lights) + 0.05) > 3


def test_objects_are_tinted_and_outlined_and_the_background_is_left_alone():
    result = bound("segmentation", (400, 200))
    drawing = np.asarray(result.draw(Image.new("RGB", (400, 200), GREY)))
    assert near(drawing[5, 5], GREY, 0)
    inside = 0.55 * np.array(GREY) + 0.45 * np.array(class_color(1))
    assert near(drawing[100, 120], inside, 2)
    assert near(drawing[100, 199], class_color(1), 0)
    assert near(drawing[100, 200], class_color(2), 0)
    alone = np.asarray(result.filter(labels="cell").draw(Image.new("RGB", (400, 200), GREY)))
    assert near(alone[100, 300], GREY, 0)


def test_without_an_instance_map_the_classes_are_outlined():
    result = bound("segmentation", (400, 200)).model_copy(update={"instance_map": None, "instances": None})
    drawing = np.asarray(result.draw(Image.new("RGB", (400, 200), GREY)))
    assert near(drawing[100, 199], class_color(1), 0)


def test_hundreds_of_masks_take_the_memory_of_one():
    import tracemalloc

    width, height = 1000, 800
    found = bound("detection", (width, height)).detections[0]
    image = Image.new("RGB", (width, height), GREY)
    result = DetectionResult(image_size_wh=(width, height), detections=[found] * 60)
    result[:1].draw(image)
    tracemalloc.start()
    result.draw(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * width * height


def exif_jpeg(pixels: np.ndarray, orientation: int) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright_as_exif_says(orientation, tmp_path):
    stored = np.full((60, 100, 3), 90, np.uint8)
    stored[:30, :50] = (255, 0, 0)
    data = exif_jpeg(stored, orientation)
    (tmp_path / "a.jpg").write_bytes(data)
    size = (60, 100) if orientation > 4 else (100, 60)
    for source in (data, tmp_path / "a.jpg", str(tmp_path / "a.jpg"), Image.open(io.BytesIO(data))):
        canvas = open_canvas(source, size)
        corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
        width, height = canvas.picture.size
        place = (int(width * (0.25 + 0.5 * corner[0])), int(height * (0.25 + 0.5 * corner[1])))
        assert near(canvas.picture.getpixel(place), (255, 0, 0), 30)
        assert canvas.scale == (width / size[0], height / size[1])


def test_an_image_that_was_sent_as_its_pixels_are_fits_too():
    image = Image.open(io.BytesIO(exif_jpeg(np.zeros((60, 100, 3), np.uint8), 6)))
    assert open_canvas(image, (100, 60)).scale == (4.0, 4.0)
    assert open_canvas(image, (60, 100)).scale == (4.0, 4.0)


def test_a_turned_file_is_drawn_small_without_decoding_all_of_it():
    data = exif_jpeg(np.zeros((1200, 2000, 3), np.uint8), 6)
    canvas = open_canvas(data, (1200, 2000), max_side_px=400)
    assert canvas.picture.size == (240, 400)
    assert canvas.scale == (0.2, 0.2)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 1), np.uint8),
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        Image.new("L", (30, 20)),
        Image.new("LA", (30, 20)),
        Image.new("P", (30, 20)),
        Image.new("1", (30, 20)),
        Image.new("CMYK", (30, 20)),
        Image.fromarray(np.zeros((20, 30), np.uint16)),
        png(np.zeros((20, 30, 3), np.uint8)),
    ],
    ids=lambda image: getattr(image, "mode", type(image).__name__),
)
def test_images_of_every_kind_are_drawn_on_and_stay_as_they_are(image):
    before = image if isinstance(image, bytes) else np.array(image)
    open_canvas(image, (30, 20))
    DetectionResult(detections=[box((1.0, 1.0, 20.0, 15.0))]).draw(image)
    assert image == before if isinstance(image, bytes) else (np.array(image) == before).all()


def test_the_brightness_of_16_bit_images_is_kept():
    canvas = open_canvas(png(np.full((20, 30), 32768, np.uint16)), None)
    assert near(canvas.picture.getpixel((5, 5)), (128, 128, 128), 1)


def test_pictures_beyond_pillows_limit_are_drawn_without_a_word(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_canvas(png(np.zeros((200, 200), np.uint8)), None).picture.width == 400


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((20, 31, 3), np.uint8), ImageMismatchError, "30x20 pixels when upright, got one of 31x20"),
        (np.zeros((20, 30, 2), np.uint8), UnsupportedImageError, "shape"),
        (np.zeros((20, 30), np.float32), UnsupportedImageError, "float32"),
        (np.zeros((0, 30), np.uint8), InvalidImageError, "one pixel"),
        (b"no picture", InvalidImageError, "not known"),
        (b"", InvalidImageError, "0 bytes"),
        (png(np.arange(1800, dtype=np.uint8).reshape(20, 30, 3))[:100], InvalidImageError, "cut off"),
        ("nowhere.png", ImageNotFoundError, "nowhere.png"),
        ("https://example.org/a.png", UnsupportedImageError, "fetch it"),
        (7, UnsupportedImageError, "int"),
    ],
)
def test_what_cannot_be_drawn_on_is_told(image, error, message):
    with pytest.raises(error, match=message):
        DetectionResult(image_size_wh=(30, 20), detections=[]).draw(image)


def test_a_document_that_would_start_a_program_is_not_opened(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    document = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto\n%%EOF\n"
    assert Image.open(io.BytesIO(document)).format == "EPS"
    with pytest.raises(InvalidImageError, match="not known here"):
        DetectionResult(image_size_wh=(9, 9), detections=[]).draw(document)


def test_lines_and_text_grow_with_the_picture():
    small, large = (open_canvas(Image.new("RGB", size), None) for size in ((400, 300), (4000, 3000)))
    assert large.line_px >= 5 * small.line_px / 2
    assert large.text_px > 5 * small.text_px
    assert open_canvas(Image.new("RGB", (8, 8)), None).text_px >= 11


def test_text_is_shortened_and_wrapped_to_fit():
    text = "a rather long caption that does not fit"
    assert width_of(shortened(text, 14, 100), 14) <= 100
    assert shortened(text, 14, 100).endswith("…")
    assert shortened("short", 14, 100) == "short"
    lines = wrapped(text, 14, 100, 2)
    assert len(lines) == 2
    assert all(width_of(line, 14) <= 100 for line in lines)
    assert wrapped("", 14, 100, 2) == []


def test_labels_in_other_scripts_are_drawn():
    for label in ("Größe", "кошка", "猫", "مرحبا", "two\nlines\x00", "", "long " * 50):
        DetectionResult(detections=[box((10.0, 30.0, 90.0, 90.0), label=label)]).draw(Image.new("RGB", (100, 100)))


def test_a_sheet_sets_pictures_into_a_table():
    red, tall = Image.new("RGB", (10, 10), (255, 0, 0)), Image.new("RGB", (50, 200), (0, 0, 255))
    made = sheet(
        [
            [(red, "red"), (tall, "tall, with a caption that is too long for one line of its cell")],
            [(None, ""), (red, "")],
        ],
        cell_px=120,
        title="Colours",
        headings=["first", "second"],
    )
    pixels = np.asarray(made)
    assert (pixels == (255, 0, 0)).all(2).sum() == 2 * 120**2
    assert (pixels == (0, 0, 255)).all(2).sum() == pytest.approx(30 * 120, rel=0.1)
    assert sheet([]).size[0] > 0


def test_numbers_become_blue_and_red_around_white():
    colors = diverging(np.array([-2.0, 0.0, 1.0, 2.0]))
    assert colors[1].tolist() == [247, 247, 247]
    assert colors[0][2] > colors[0][0]
    assert colors[3][0] > colors[3][2]
    assert heat_strip(np.arange(1000.0), (300, 40)).size == (300, 40)
    assert diverging(np.zeros(3)).min() == 247


def test_a_map_has_the_size_of_its_image():
    assert halves((40, 24)).shape == (24, 40)
