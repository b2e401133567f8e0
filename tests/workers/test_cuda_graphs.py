"""Few batch sizes and their graphs, on a stand-in for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.catalog import Catalog
from tests.helpers.fake_cuda import FakeCuda
from workers.classification import ClassificationRuntime
from workers.cuda_graphs import Buckets, answer_in_buckets
from workers.hosted import HostedModel

SHAPE = (3, 4, 4)


class Counting(nn.Module):
    """A linear network that notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 5)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits: Tensor = self.layer(x.flatten(1))
        return logits


@pytest.fixture
def network() -> Counting:
    torch.manual_seed(0)
    return Counting().eval().requires_grad_(False)


def make(network: Any, cuda: FakeCuda | None = None, *, largest: int = 24) -> Buckets:
    buckets = Buckets(cuda or FakeCuda(), network, SHAPE, torch.float32, largest=largest)
    buckets.prepare()
    return buckets


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (6, [1, 2, 4, 6]), (24, [1, 2, 4, 8, 16, 24]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_sizes_are_powers_of_two_and_the_largest_micro_batch(network: Counting, largest: int, sizes: list[int]) -> None:
    buckets = make(network, largest=largest)
    assert buckets.sizes == sizes
    assert buckets.graphs == [size for size in sizes if size in (1, 2, 4, 8)]
    assert set(sizes) <= set(network.sizes)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 9, 17, 24, 30])
def test_every_batch_gets_its_own_answers_whatever_size_computes_it(network: Counting, number: int) -> None:
    buckets = make(network)
    torch.manual_seed(number)
    # A batch before it leaves other rows behind.
    buckets(torch.randn(8, *SHAPE))
    inputs = torch.randn(number, *SHAPE).contiguous(memory_format=torch.channels_last)
    network.sizes.clear()
    answer = buckets(inputs)
    assert network.sizes == [next((size for size in buckets.sizes if size >= number), number)]
    assert torch.allclose(answer, network(inputs), atol=1e-6)


def test_an_answer_outlives_the_next_replay(network: Counting) -> None:
    buckets = make(network)
    first, second = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    kept = buckets(first)
    buckets(second)
    assert torch.allclose(kept, network(first), atol=1e-6)


@pytest.mark.parametrize("inside", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_graphs_answer_in_any_grad_mode(network: Counting, inside: Callable[[], Any]) -> None:
    with torch.inference_mode():
        buckets = make(network)
    inputs = torch.randn(2, *SHAPE)
    with inside():
        assert torch.allclose(buckets(inputs), network(inputs), atol=1e-6)


def test_inputs_of_another_dtype_are_computed_as_they_are(network: Counting) -> None:
    buckets = make(network)
    network.double().sizes.clear()
    buckets(torch.randn(3, *SHAPE, dtype=torch.float64))
    assert network.sizes == [3]


def test_a_size_that_cannot_be_captured_leaves_it_and_the_smaller_ones_eager(
    network: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCuda()
    cuda.refuses[4] = RuntimeError("called a synchronizing CUDA operation")
    with caplog.at_level("WARNING", logger="visionpipe"):
        buckets = make(network, cuda)
    assert buckets.graphs == [8]
    assert "batches of 4 are served without a graph: called a synchronizing" in caplog.text
    assert cuda.log[-1] == "check"
    inputs = torch.randn(3, *SHAPE)
    assert torch.allclose(buckets(inputs), network(inputs), atol=1e-6)


def test_a_graph_that_does_not_read_its_input_is_found_out(network: Counting, caplog: pytest.LogCaptureFixture) -> None:
    cuda = FakeCuda()
    cuda.forgets = True
    with caplog.at_level("WARNING", logger="visionpipe"):
        assert make(network, cuda).graphs == []
    assert "its replay differs by" in caplog.text


def test_a_broken_device_is_not_taken_for_a_network_without_graphs(network: Counting) -> None:
    class Broken(FakeCuda):
        def check(self) -> None:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    cuda = Broken()
    cuda.refuses[8] = RuntimeError("something went wrong")
    with pytest.raises(torch.AcceleratorError):
        make(network, cuda)


@pytest.mark.parametrize("odd", [lambda x: {"out": x}, lambda x: x[:1]], ids=["a_dict", "one_row"])
def test_a_network_without_a_row_for_each_image_is_refused(odd: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="a row for each"):
        make(odd)


def test_cudnn_searches_in_these_sizes_alone(network: Counting) -> None:
    seen: list[bool] = []

    def noting(x: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.benchmark)
        return network(x)

    buckets = make(noting)
    assert set(seen) == {True}
    buckets(torch.randn(16, *SHAPE))
    assert not torch.backends.cudnn.benchmark
    buckets(torch.randn(30, *SHAPE))
    assert not seen[-1]


def test_a_classifier_answers_through_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HostedModel(Catalog().find("lenet-digits"), device="cpu")
    model.set_precision("fp32")
    cuda, runtime = FakeCuda(), ClassificationRuntime(model)
    told = answer_in_buckets({"classification": runtime}, cuda, largest=16)
    assert told == "graphs of 1, 2, 4, 8"
    runtime.warm_up(3)
    assert cuda.log[-1] == ("replay", 4)

    monkeypatch.setattr(runtime, "agrees_with", lambda network: False)
    assert answer_in_buckets({"classification": runtime}, cuda, largest=16) == "eager: no graph could be captured"
    assert answer_in_buckets({}, cuda, largest=16) == "eager: inputs have no fixed size"
