import pytest
import torch
from safetensors.torch import save

from models.catalog import Catalog
from models.loading import load
from models.networks.fasterrcnn import SmallPyramid, fasterrcnn_small


def test_the_pyramid_has_a_level_for_each_of_the_last_stages_each_half_the_size_of_the_one_before():
    pyramid = SmallPyramid((8, 12, 16, 20, 24), out_channels=10, blocks=1, num_levels=3).eval()
    levels = pyramid(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (2, 10, 8, 12),
        "1": (2, 10, 4, 6),
        "2": (2, 10, 2, 3),
    }


def test_answers_have_torchvisions_form_in_pixels_of_each_image():
    torch.manual_seed(1)
    network = fasterrcnn_small(num_classes=11, box_score_thresh=0.0).eval()
    with torch.inference_mode():
        answers = network([torch.rand(3, 320, 320), torch.rand(3, 100, 160)])
    for answer, (height, width) in zip(answers, [(320, 320), (100, 160)], strict=True):
        assert set(answer) == {"boxes", "labels", "scores"}
        assert len(answer["boxes"]) > 0
        assert answer["labels"].min() >= 1
        assert answer["labels"].max() <= 10
        assert answer["boxes"][:, 2].max() <= width
        assert answer["boxes"][:, 3].max() <= height


def test_it_learns_one_image():
    torch.manual_seed(1)
    network = fasterrcnn_small(num_classes=3, channels=(8, 12, 16, 20, 24), blocks=1, size_px=128).train()
    image = torch.zeros(3, 128, 128)
    image[0, 30:80, 40:75] = 1
    truth = {"boxes": torch.tensor([[40.0, 30.0, 75.0, 80.0]]), "labels": torch.tensor([2])}
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = sum(network([image], [truth]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_card_builds_it_small_enough_for_the_repository_in_half_precision(write_model):
    network = fasterrcnn_small(num_classes=11)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    assert len(save(state)) <= 6e6
    folder = write_model("mine", network="fasterrcnn_small", more="[arguments]\nnum_classes = 11\n", state=state)
    loaded = load(Catalog(folder).find("mine"))
    torch.testing.assert_close(
        loaded.state_dict()["rpn.head.cls_logits.weight"],
        network.state_dict()["rpn.head.cls_logits.weight"],
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("sizes", [(20, 40), (16, 24, 36, 54)])
def test_anchors_are_one_size_a_level(sizes):
    network = fasterrcnn_small(num_classes=2, anchor_sizes_px=sizes)
    assert network.backbone.num_levels == len(sizes)
    assert network.rpn.anchor_generator.num_anchors_per_location() == [3] * len(sizes)
