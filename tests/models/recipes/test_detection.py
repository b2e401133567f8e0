import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.catalog import Catalog
from models.recipes import __main__ as command
from models.recipes import detection, detector_cards, fasterrcnn_digits, pages, yolo_digits
from models.recipes.measuring import measure

RECIPES = {"yolo-digits": yolo_digits, "fasterrcnn-digits": fasterrcnn_digits}
SHOWN = 40


@pytest.fixture(scope="module")
def some_pages():
    return list(pages.training().pages(0, 8))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_batches_hold_every_page_once_with_its_boxes_in_other_colours(some_pages):
    batches = list(detection.batches(some_pages, 4, np.random.default_rng(1)))
    assert [len(batch.x_NCHW) for batch in batches] == [4, 4]
    seen = [labels.tolist() for batch in batches for labels in batch.labels]
    assert sorted(seen) == sorted(page.labels.tolist() for page in some_pages)
    x_NCHW = batches[0].x_NCHW
    assert x_NCHW.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= float(x_NCHW.min()) < float(x_NCHW.max()) <= 1
    page = next(page for page in some_pages if page.labels.tolist() == seen[0])
    assert np.array_equal(batches[0].boxes_xyxy[0].numpy(), page.boxes_xyxy)
    # Swapped and inverted channels hold the same values, each in a place of its own.
    channels = {np.sort(channel.ravel()).tobytes() for channel in np.moveaxis(page.pixels, 2, 0)}
    inverted = {np.sort(channel.ravel()).tobytes() for channel in np.moveaxis(255 - page.pixels, 2, 0)}
    levels = (x_NCHW[0] * 255).round().byte().numpy()
    assert {np.sort(channel.ravel()).tobytes() for channel in levels} in (channels, inverted)


def test_bf16_is_for_convolutions_that_do_not_stride_and_stays_inside():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3))
    x_NCHW = torch.rand(2, 3, 16, 16)
    exact = network(x_NCHW)
    detection.in_bf16(network)
    inside = []
    for layer in network:
        layer.register_forward_hook(lambda _, __, output: inside.append(output.dtype))
    low = network(x_NCHW)
    assert inside == [torch.float32, torch.bfloat16]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.05, atol=0.02)
    low.sum().backward()
    assert network[0].weight.grad.dtype == torch.float32


def test_yolos_truth_is_told_in_centres_and_parts_of_the_page():
    batch = detection.Batch(
        torch.zeros(2, 3, 320, 320),
        [torch.tensor([[0.0, 0.0, 32.0, 64.0]]), torch.tensor([[160.0, 0.0, 320.0, 320.0]])],
        [torch.tensor([7]), torch.tensor([2])],
    )
    told = yolo_digits.targets(batch)
    assert told["batch_idx"].tolist() == [0, 1]
    assert told["cls"].tolist() == [7, 2]
    torch.testing.assert_close(told["bboxes"], torch.tensor([[0.05, 0.1, 0.1, 0.2], [0.75, 0.5, 0.5, 1.0]]))


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_give_a_model_whose_card_says_what_its_files_measure(name, monkeypatch, tmp_path, threads):
    recipe = RECIPES[name]
    monkeypatch.setattr(recipe, "PLAN", detection.Plan(num_pages=8, epochs=2, batch=4))
    monkeypatch.setattr(pages, "NUM_HELD_OUT", 3)
    monkeypatch.setattr(pages, "NUM_VALIDATION", 2)
    lines = []
    measured = recipe.train(tmp_path / name, report=lines.append)
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
        "validation pages",
        "held-out pages",
    ]
    entry = Catalog(tmp_path).find(name)
    assert entry.source == "user"
    assert entry.card.tasks == ["detection"]
    assert measure(entry, pages.held_out_pages()) == measured
    assert [quality.value for quality in entry.card.quality] == pytest.approx(
        [measured.map50, measured.map50_95], abs=1e-6
    )
    assert (tmp_path / name / "weights.safetensors").stat().st_size <= 6e6
    assert len(entry.card.parity) == pages.NUM_PARITY
    for picture in entry.card.parity:
        with Image.open(tmp_path / name / picture) as opened:
            assert opened.size == (320, 320)


def test_training_changes_every_layer_and_leaves_the_network_ready_to_answer(threads):
    torch.manual_seed(0)
    network = fasterrcnn_digits.fasterrcnn_small(**fasterrcnn_digits.FACTS.arguments, **fasterrcnn_digits.PROPOSALS)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    plan = detection.Plan(num_pages=4, epochs=2, batch=2)
    detection.fit(network, fasterrcnn_digits.loss_of(network), pages.training(), plan, report=lambda _: None)
    assert not network.training
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize("name", RECIPES)
def test_bundled_detectors_find_and_read_held_out_digits(name):
    entry = Catalog().find(name)
    assert [label for label in entry.card.labels if label != "__background__"] == [str(digit) for digit in range(10)]
    assert ("AGPL" in entry.card.licence) == (name == "yolo-digits")
    measured = measure(entry, list(pages.held_out().pages(0, SHOWN)))
    assert measured.map50 >= 0.95
    assert measured.map50_95 >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_cards_figures_are_those_measured_on_all_held_out_pages(name):
    entry = Catalog().find(name)
    measured = measure(entry, pages.held_out_pages())
    told = {quality.metric: quality.value for quality in entry.card.quality}
    assert told == pytest.approx({"mAP50": measured.map50, "mAP50-95": measured.map50_95}, abs=2e-3)


def test_both_recipes_can_be_run_by_name():
    assert {name: command.RECIPES[name] for name in RECIPES} == {name: recipe.train for name, recipe in RECIPES.items()}


def test_cost_counts_parameters_and_multiply_adds():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False))
    num_params, gflops = detector_cards.cost(network, takes_batches=True)
    assert num_params == 108
    assert gflops == pytest.approx(108 * 320 * 320 / 1e9)
