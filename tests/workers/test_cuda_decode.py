"""JPEGs made inputs beside the cores: on a stand-in for a device, which decodes with torchvision on the CPU."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from models.cards import Preprocessing
from models.catalog import Catalog
from models.errors import ImageTooLarge
from models.images import decode
from models.parity import synthetic
from models.preprocess import Preprocess
from tests.helpers.fake_cuda import FakeCuda
from visionpipe.settings import Settings
from workers import cuda_decode
from workers.classification import ClassificationRuntime
from workers.cuda_decode import Decoder, Found, choose_decoder, decode_there, mean_delta, probe_files
from workers.hosted import HostedModel
from workers.reading import Reader

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec")

PHOTO = Preprocessing(resize=64, crop=48, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3)
FILES = probe_files()[:4]
DAMAGED = FILES[2][:-500] + bytes(498) + FILES[2][-2:]


class Noting:
    """Decodes as torchvision does on a CPU, notes the groups, and refuses groups with a damaged file."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, files: Sequence[bytes], device: torch.device) -> list[Tensor]:
        self.groups.append(len(files))
        assert self.gate.wait(20)
        if DAMAGED in files:
            raise RuntimeError("Error while decoding JPEG images")
        return decode_there(files, device)


@pytest.fixture
def noting() -> Noting:
    return Noting()


def make(noting: Noting, preprocessing: Preprocessing = PHOTO, **options: Any) -> Decoder:
    options.setdefault("most", 8)
    return Decoder(FakeCuda(), Preprocess(preprocessing), decode_files=noting, **options)


def here(data: bytes, preprocessing: Preprocessing = PHOTO) -> Tensor:
    picture = decode(data, max_bytes=10**9, max_pixels=10**9)
    return Preprocess(preprocessing).levels(picture.image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("resize", "crop"), [(64, 48), (64, None), ((40, 70), None), ((40, 70), (32, 64)), (None, 200), (500, 448)],
    ids=["crop", "whole", "stretched", "both", "as_it_is", "enlarged"],
)  # fmt: skip
def test_an_input_made_there_is_that_of_the_cores_within_two_levels(
    noting: Noting, resize: Any, crop: Any, interpolation: Any
) -> None:
    preprocessing = Preprocessing(resize=resize, crop=crop, interpolation=interpolation, mean=[0] * 3, std=[1] * 3)
    found = make(noting, preprocessing)(FILES[0])
    assert found is not None
    levels, size_wh = found
    expected = here(FILES[0], preprocessing)
    assert (size_wh, levels.dtype, levels.shape) == ((640, 480), torch.uint8, expected.shape)
    assert int((levels.int() - expected.int()).abs().max()) <= 2
    # The comparison can fail: another picture is far off.
    assert int((levels.int() - here(FILES[1], preprocessing).int()).abs().max()) > 20


@pytest.mark.parametrize(
    "change",
    [{"mode": "L", "mean": [0], "std": [1]}, {"interpolation": "lanczos"}, {"interpolation": "nearest"}, {"crop": 65}],
    ids=["grey", "lanczos", "nearest", "padded"],
)
def test_what_only_pillow_does_is_left_to_the_cores(noting: Noting, change: dict[str, Any]) -> None:
    preprocessing = Preprocessing.model_validate({**PHOTO.model_dump(), **change})
    assert make(noting, preprocessing)(FILES[0]) is None
    assert noting.groups == []


def test_files_that_decoders_read_differently_are_left_to_the_cores(noting: Noting) -> None:
    stream = io.BytesIO()
    synthetic(0).save(stream, "JPEG", progressive=True)
    decoder = make(noting, max_pixels=640 * 480)
    assert decoder(stream.getvalue()) is None
    assert decoder(b"no jpeg") is None
    assert make(noting, max_pixels=640 * 480 - 1)(FILES[0]) is None
    assert noting.groups == []
    assert decoder(FILES[0]) is not None


def in_threads(decoder: Decoder, files: Sequence[bytes], noting: Noting) -> list[Found | None]:
    """Decode in threads, all of which wait while the first group is held up."""
    found: list[Found | None] = [None] * len(files)

    def one(index: int) -> None:
        found[index] = decoder(files[index])

    noting.gate.clear()
    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(files))]
    for number, thread in enumerate(threads):
        thread.start()
        while number == 0 and thread.is_alive() and not noting.groups:
            time.sleep(0.001)
    until = time.monotonic() + 10
    while decoder._inside < min(len(files), decoder._most) and time.monotonic() < until:
        time.sleep(0.001)
    noting.gate.set()
    for thread in threads:
        thread.join(20)
    return found


def test_files_of_several_threads_are_decoded_together_and_each_gets_its_own(noting: Noting) -> None:
    found = in_threads(make(noting), FILES, noting)
    assert noting.groups == [1, 3]
    for data, one in zip(FILES, found, strict=True):
        assert one is not None
        assert int((one[0].int() - here(data).int()).abs().max()) <= 2


def test_a_damaged_file_sends_its_group_to_the_cores_and_no_other(noting: Noting) -> None:
    found = in_threads(make(noting), [FILES[0], FILES[1], DAMAGED], noting)
    assert [one is None for one in found] == [False, True, True]
    assert make(noting)(FILES[1]) is not None


def test_threads_that_would_wait_long_use_the_cores(noting: Noting) -> None:
    found = in_threads(make(noting, most=1), FILES, noting)
    assert noting.groups == [1]
    assert [one is None for one in found] == [False, True, True, True]


def test_large_pictures_are_not_all_decoded_together(noting: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_decode, "MAX_TOGETHER_PIXELS", 2 * 640 * 480)
    in_threads(make(noting), FILES, noting)
    assert noting.groups == [1, 2, 1]


def test_no_picture_is_blamed_for_a_broken_device(caplog: pytest.LogCaptureFixture) -> None:
    def broken(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    decoder = Decoder(FakeCuda(), Preprocess(PHOTO), most=8, decode_files=broken)
    assert decoder(FILES[0]) is None
    assert "the device decodes no more" in caplog.text
    with pytest.raises(torch.AcceleratorError):
        decoder.levels(FILES)


@contextmanager
def photographs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HostedModel, ClassificationRuntime]]:
    hosted = HostedModel(Catalog().find("vgg-digits"), device="cpu")
    hosted.card = hosted.card.model_copy(update={"preprocess": PHOTO})
    hosted.cuda = FakeCuda()
    yield hosted, ClassificationRuntime(hosted)


@pytest.mark.parametrize(
    ("delta", "there_s", "setting", "chosen"),
    [(0.4, 1.0, "auto", True), (0.4, 3.0, "auto", False), (1.5, 1.0, "auto", False), (0.4, 1.0, "off", False)],
    ids=["pays", "slower_than_half_the_cores", "unfaithful", "off"],
)
def test_the_device_decodes_where_that_pays(
    monkeypatch: pytest.MonkeyPatch, delta: float, there_s: float, setting: Any, chosen: bool
) -> None:
    monkeypatch.setattr(cuda_decode, "mean_delta", lambda *_: delta)
    times = iter([there_s * 16, 2 * 1.4 * 16])
    monkeypatch.setattr(cuda_decode, "_fastest_s", lambda work: next(times))
    with photographs(monkeypatch) as (hosted, runtime):
        choose_decoder(hosted, {"classification": runtime}, Settings(decode_threads=2, cuda_decode=setting))
        assert (runtime.decoder is not None) == chosen


def test_a_device_that_decodes_nothing_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
        raise RuntimeError("torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(cuda_decode.Decoder.__init__, "__kwdefaults__", {"max_pixels": 2**24, "decode_files": refuse})
    with photographs(monkeypatch) as (hosted, runtime), caplog.at_level("WARNING", logger="visionpipe"):
        choose_decoder(hosted, {"classification": runtime}, Settings())
    assert runtime.decoder is None
    assert "decoded by the cores" in caplog.text


def test_how_far_inputs_differ_is_told_in_levels(noting: Noting) -> None:
    assert mean_delta(make(noting), Preprocess(PHOTO), FILES) < 1

    def brighter(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
        return [pixels.clamp(max=245) + 10 for pixels in decode_there(files, device)]

    decoder = Decoder(FakeCuda(), Preprocess(PHOTO), most=1, decode_files=brighter)
    assert mean_delta(decoder, Preprocess(PHOTO), FILES) > 5


def test_a_reader_takes_what_the_device_made_or_decodes_by_itself(noting: Noting) -> None:
    grey = io.BytesIO()
    Image.new("L", (70, 50), 9).save(grey, "JPEG")
    decoder = make(noting)
    for data, is_there, size_wh in ((FILES[0], True, (640, 480)), (grey.getvalue(), False, (70, 50))):
        fetcher: Any = SimpleNamespace(fetch=lambda *_, data=data: data)
        job = SimpleNamespace(dropped=False, take_pixels=lambda _: None)
        work: Any = SimpleNamespace(job=job, times_ms={}, encoded=None, image=None, prepared=None)
        ref: Any = None
        Reader(fetcher, Settings()).fill(work, ref, decoder=decoder)
        assert (work.prepared is not None, work.image is None, work.size_wh) == (is_there, is_there, size_wh)
        assert set(work.times_ms) == {"fetch_ms", "decode_ms"}
    fetcher = SimpleNamespace(fetch=lambda *_: FILES[0])
    with pytest.raises(ImageTooLarge):
        Reader(fetcher, Settings(max_image_bytes=len(FILES[0]) - 1)).fill(work, ref, decoder=decoder)
