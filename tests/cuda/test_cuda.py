"""What can only be seen on a GPU: that copies overlap safely, graphs replay, memory is capped, JPEGs are decoded."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.cards import Preprocessing
from models.catalog import Catalog
from models.images import decode
from models.parity import synthetic
from models.preprocess import Preprocess
from visionpipe.schemas.requests import ClassificationOptions
from workers.cuda import Cuda, memory_share, settle
from workers.cuda_copies import Copies, Pending, arrived
from workers.cuda_decode import Decoder, decode_there, mean_delta, probe_files
from workers.cuda_graphs import Buckets, answer_in_buckets
from workers.device import is_out_of_memory, native_precisions
from workers.hosted import HostedModel
from workers.pipeline import Pipeline
from workers.runtime import Answer, Runtime, Written, make_runtimes, run_batch

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:.*TorchCodec")]

PHOTO = Preprocessing(resize=256, crop=224, interpolation="bilinear", mean=[0.485] * 3, std=[0.229] * 3)


@pytest.fixture
def cuda(device: torch.device) -> Cuda:
    return Cuda(device)


def test_many_batches_in_flight_keep_their_pixels(cuda: Cuda) -> None:
    copies = Copies(cuda)
    generator = torch.Generator().manual_seed(0)
    slow = torch.randn(2048, 2048, device=cuda.device)
    sent: list[tuple[list[Tensor], Tensor | Pending]] = []
    for number in range(60):
        images = [
            torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(1 + number % 32)
        ]
        batch = copies.stack(images)
        # The device is busy while the next ones are stacked and sent.
        for _ in range(4):
            slow = (slow @ slow).tanh()
        sent.append((images, copies.fetch(batch.int() * 2)))
    for images, pending in sent:
        assert isinstance(pending, Pending)
        assert torch.equal(pending.values(), torch.stack(images).int() * 2)


def test_a_batch_of_images_from_both_sides_keeps_its_order(cuda: Cuda) -> None:
    images = [torch.full((3, 8, 8), level, dtype=torch.uint8) for level in range(6)]
    mixed = [image.to(cuda.device) if index % 2 else image for index, image in enumerate(images)]
    torch.cuda.synchronize()
    assert torch.equal(Copies(cuda).stack(mixed).cpu(), torch.stack(images))


class Small(nn.Module):
    """A few convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layers(x).flatten(1)
        return answer


class Waiting(Small):
    """Looks at a value on the host, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.sum().item() > 1e9 else 1)


def on_device(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    moved: nn.Module = network.eval().requires_grad_(False).to("cuda:0", dtype)
    return moved.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_graphs_answer_as_the_network_does(cuda: Cuda, dtype: torch.dtype) -> None:
    network = on_device(Small(), dtype)
    buckets = Buckets(cuda, network, (3, 32, 32), dtype, largest=12)
    buckets.prepare()
    assert buckets.graphs == [1, 2, 4, 8]
    for number in (1, 2, 3, 5, 8, 11, 12, 14):
        inputs = torch.randn(number, 3, 32, 32, device=cuda.device).to(dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            torch.testing.assert_close(buckets(inputs), network(inputs), rtol=3e-2, atol=1e-2)


def test_a_network_that_waits_for_the_device_is_served_without_graphs(cuda: Cuda) -> None:
    network = on_device(Waiting(), torch.float32)
    buckets = Buckets(cuda, network, (3, 32, 32), torch.float32, largest=8)
    buckets.prepare()
    assert buckets.graphs == []
    inputs = torch.randn(3, 3, 32, 32, device=cuda.device)
    torch.testing.assert_close(buckets(inputs), network(inputs), rtol=1e-4, atol=1e-5)
    # The device, its memory and its streams are as they were.
    good = Buckets(cuda, on_device(Small(), torch.float32), (3, 32, 32), torch.float32, largest=8)
    good.prepare()
    assert good.graphs == [1, 2, 4, 8]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_a_thread_that_decodes_does_not_disturb_a_capture(cuda: Cuda) -> None:
    stop = threading.Event()

    def disturb() -> None:
        stream, done = torch.cuda.Stream(), torch.cuda.Event(blocking=True)
        with torch.cuda.stream(stream):
            while not stop.is_set():
                torch.empty(1 << 16, pin_memory=True).to(cuda.device, non_blocking=True)
                # As the decoder waits: a stream's own synchronize is forbidden while a capture is tried.
                done.record(stream)
                done.synchronize()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        buckets = Buckets(cuda, on_device(Small(), torch.float32), (3, 32, 32), torch.float32, largest=8)
        buckets.prepare()
    finally:
        stop.set()
        thread.join()
    assert buckets.graphs == [1, 2, 4, 8]


CAPPED = """
import torch
from workers.cuda import settle
from workers.device import is_out_of_memory
settle(torch.device("cuda:0"), memory=2.0, workers=1)
torch.empty(2**28, dtype=torch.uint8, device="cuda:0")
try:
    torch.empty(2**32, dtype=torch.uint8, device="cuda:0")
except RuntimeError as error:
    print("refused", is_out_of_memory(error))
"""


def test_memory_beyond_the_cap_is_refused_as_want_of_memory() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CAPPED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "True"]


def test_fp32_is_not_rounded_to_tf32(device: torch.device) -> None:
    settle(device, memory=1.0, workers=1)
    torch.manual_seed(0)
    conv, x = nn.Conv2d(256, 256, 3).requires_grad_(False), torch.randn(4, 256, 16, 16)
    exact = conv.double()(x.double())
    there = conv.float().to(device)(x.to(device)).cpu().double()
    assert float((there - exact).norm() / exact.norm()) < 2e-5
    product = (x.flatten(1).to(device) @ x.flatten(1).to(device).T).cpu().double()
    expected = x.flatten(1).double() @ x.flatten(1).double().T
    assert float((product - expected).norm() / expected.norm()) < 2e-5


def test_an_equal_part_of_this_device_is_less_than_all_of_it() -> None:
    free, total = torch.cuda.mem_get_info(0)
    assert 0 < memory_share(None, 3, free_bytes=free, total_bytes=total) < 1 / 3
    assert native_precisions(torch.device("cuda:0")) in (["bf16", "fp16"], ["fp16"], [])


def decoder(cuda: Cuda, **options: Any) -> Decoder:
    return Decoder(cuda, Preprocess(PHOTO), most=16, **options)


def test_inputs_decoded_there_are_those_of_pillow_within_a_level_in_the_mean(cuda: Cuda) -> None:
    files = probe_files()
    assert mean_delta(decoder(cuda), Preprocess(PHOTO), files) <= 1.0
    levels = decoder(cuda)(files[3])
    assert levels is not None
    assert levels[0].device == cuda.device
    other = Preprocess(PHOTO).levels(decode(files[4], max_bytes=10**9, max_pixels=10**9).image)
    assert float((levels[0].cpu().float() - other.float()).abs().mean()) > 10


@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["444", "422", "420"])
@pytest.mark.parametrize("size_wh", [(224, 224), (257, 333), (1601, 1203)], ids=["small", "odd", "large"])
def test_common_layouts_and_sizes_are_decoded_there(cuda: Cuda, subsampling: int, size_wh: tuple[int, int]) -> None:
    stream = io.BytesIO()
    synthetic(1).resize(size_wh).save(stream, "JPEG", quality=90, subsampling=subsampling)
    # The device repeats the colours of a picture that has fewer of them, where Pillow blends them.
    allowed = 1.0 if subsampling == 0 or min(size_wh) > 1000 else 2.0
    assert mean_delta(decoder(cuda), Preprocess(PHOTO), [stream.getvalue()]) <= allowed


def test_a_damaged_file_spoils_its_group_alone_and_the_device_goes_on(cuda: Cuda) -> None:
    files = probe_files()[:3]
    headless = files[0][: len(files[0]) // 2].replace(b"\xff\xc0", b"\xff\x00").replace(b"\xff\xc2", b"\xff\x00")
    assert decoder(cuda).levels([files[0], headless, files[1]]) == [None] * 3
    assert mean_delta(decoder(cuda), Preprocess(PHOTO), files) <= 1.0


def test_files_of_many_threads_are_decoded_and_computed_at_once(cuda: Cuda) -> None:
    files, preprocess = probe_files(), Preprocess(PHOTO)
    here = [preprocess.levels(decode(data, max_bytes=10**9, max_pixels=10**9).image) for data in files]
    shared, copies, wrong = decoder(cuda), Copies(cuda), []

    def go_on(first: int) -> None:
        for step in range(20):
            index = (first + step) % len(files)
            found = shared(files[index])
            if found is not None and float((found[0].cpu().float() - here[index].float()).abs().mean()) > 1:
                wrong.append(index)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        arrived(copies.fetch(copies.stack(here).float().mul(2)))
    for thread in threads:
        thread.join()
    assert wrong == []


def test_decoding_a_grey_or_turned_file_is_left_to_the_cores(cuda: Cuda) -> None:
    for picture, options in ((Image.new("L", (64, 64)), {}), (Image.new("CMYK", (64, 64)), {})):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", **options)
        assert decoder(cuda)(stream.getvalue()) is None
    assert len(decode_there(probe_files()[:2], cuda.device)) == 2


def work_of(runtime: Runtime, image: Image.Image, options: Any) -> Any:
    made = SimpleNamespace(
        image=SimpleNamespace(image=image, full_wh=None, size_wh=image.size), size_wh=image.size, prepared=None,
        request=SimpleNamespace(options=options, task=""), is_long=False, ready_at=0.0, times_ms={}, index=0,
        keep=lambda data, media_type: None, job=SimpleNamespace(dropped=False),
    )  # fmt: skip
    runtime.prepare(made)
    return made


def probabilities(name: str, where: str, precision: str) -> Tensor:
    """What a bundled classifier says of some pictures."""
    hosted = HostedModel(Catalog().find(name), device=where)
    hosted.set_precision(precision)
    runtime = make_runtimes(hosted)["classification"]
    if hosted.cuda is not None:
        assert runtime.parity(precision)
        assert answer_in_buckets({"classification": runtime}, hosted.cuda, largest=16) == "graphs of 1, 2, 4, 8"
    works = [work_of(runtime, synthetic(seed), ClassificationOptions(top_k=3)) for seed in range(7)]
    found: Tensor = arrived(runtime.forward(works)).float()
    return found


@pytest.mark.parametrize("name", ["lenet-digits", "vgg-digits"])
def test_a_bundled_classifier_answers_on_the_device_as_on_the_cpu(device: torch.device, name: str) -> None:
    exact = probabilities(name, "cpu", "fp32")
    assert float((probabilities(name, str(device), "fp32") - exact).abs().max()) <= 1e-4
    for precision in native_precisions(device):
        assert float((probabilities(name, str(device), precision) - exact).abs().max()) <= 0.02


@pytest.mark.parametrize("name", ["unet-cells", "yolo-digits"])
def test_the_other_bundled_networks_pass_their_own_parity_on_the_device(device: torch.device, name: str) -> None:
    hosted = HostedModel(Catalog().find(name), device=str(device))
    hosted.set_precision("fp32")
    assert hosted.cuda is not None
    for runtime in make_runtimes(hosted).values():
        assert runtime.parity("fp32")
        runtime.warm_up(3)
        said = answer_in_buckets({"task": runtime}, hosted.cuda, largest=8)
        assert said == "graphs of 1, 2, 4, 8"
        runtime.warm_up(3)


def best(answer: Any) -> str:
    """The class that a written result names first."""
    assert isinstance(answer, Written), answer
    return answer.text.partition('"class_id":')[2].partition(",")[0]


def test_batches_in_flight_get_their_own_answers(device: torch.device) -> None:
    hosted = HostedModel(Catalog().find("lenet-digits"), device=str(device))
    hosted.set_precision("fp32")
    runtime = make_runtimes(hosted)["classification"]
    pictures = [synthetic(seed) for seed in range(12)]
    works = [work_of(runtime, picture, ClassificationOptions(top_k=1)) for picture in pictures]
    alone = [run_batch(runtime, [work], pytest.fail)[0] for work in works]
    piped: dict[int, Answer] = {}
    pipeline = Pipeline(lambda batch, answers: piped.update(zip(map(id, batch), answers, strict=True)), pytest.fail)
    for first in range(0, 12, 3):
        pipeline.run(runtime, works[first : first + 3])
    pipeline.finish()
    assert [best(piped[id(work)]) for work in works] == [best(answer) for answer in alone]
    assert len(set(map(best, alone))) > 1


def test_real_want_of_memory_on_the_device_is_recognised_and_survived(device: torch.device) -> None:
    _, total = torch.cuda.mem_get_info(device)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2 * total, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)
    assert float(torch.ones(3, device=device).sum()) == 3
