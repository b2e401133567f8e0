import re
import warnings

import pytest
import torch
from torchvision import models as registry

from models import zoo
from models.cards import Card
from models.errors import InvalidCard

CLASSIFICATION = zoo.names("classification")


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_classification_network_has_a_card_made_of_torchvisions_own_metadata(name):
    card = zoo.card(name)
    builder, _, chosen = name.partition(".")
    enum = registry.get_model_weights(builder)
    weights = enum[chosen.upper()] if chosen else enum.DEFAULT
    preset = weights.transforms()
    assert card.network == f"torchvision:{builder}"
    assert card.labels == weights.meta["categories"]
    assert (card.preprocess.resize, card.preprocess.crop) == (preset.resize_size[0], preset.crop_size[0])
    assert card.preprocess.interpolation == preset.interpolation.value
    assert (card.preprocess.mean, card.preprocess.std) == (list(preset.mean), list(preset.std))
    assert preset.antialias
    assert card.cost.num_params == weights.meta["num_params"]
    assert card.cost.gflops == weights.meta["_ops"]
    accuracy = {quality.metric: quality.value * 100 for quality in card.quality}
    assert accuracy == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"])
    assert card.weights.url == weights.url
    assert f"-{card.weights.sha256}.pth" in weights.url
    assert card.licence
    assert Card.model_validate_json(card.model_dump_json()) == card


def test_no_network_of_torchvision_is_left_out():
    listed = {name.partition(".")[0] for name in zoo.names()}
    assert listed == {name for kind in zoo.KINDS for name in registry.list_models(module=kind.registry)}
    families = ("alexnet", "vgg", "googlenet", "inception", "resnet152", "densenet", "mnasnet", "mobilenet", "maxvit")
    for family in (*families, "efficientnet", "convnext", "vit", "swin", "regnet", "squeezenet", "shufflenet"):
        assert any(name.startswith(family) for name in zoo.names()), family


def test_an_unknown_name_has_no_card_and_no_builder():
    assert zoo.card("resnet19") is None
    with pytest.raises(InvalidCard, match="no network 'raft_large' for classification"):
        zoo.builder("raft_large")


def _published_state(name):
    """Random weights in the form of torchvision's published files, with what is odd about the older ones."""
    torch.manual_seed(0)
    heads = {"aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    state = zoo.builder(name)(**zoo.untrained_arguments(name, heads)).state_dict()
    if not name.startswith("densenet"):
        return state
    renamed = type(state)()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            renamed[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.", key)] = value
    return renamed


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "densenet121", "googlenet", "swin_t"],
)
def test_torchvision_builds_its_network_from_tensors_already_read(name):
    card = zoo.card(name)
    state = _published_state(name)
    network = zoo.build(card, state).eval()
    height, width = card.preprocess.input_size_hw
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, height, width))
    assert logits.shape == (1, 1000)
    some_key = next(key for key in network.state_dict() if key in state)
    assert torch.equal(network.state_dict()[some_key], state[some_key])


# RegNet's builder computes its widths with tensors, which have no values on the meta device.
ON_META = [name for name in CLASSIFICATION if not name.startswith("regnet")]


@pytest.mark.parametrize("name", ON_META)
def test_every_network_takes_preloaded_tensors_and_has_the_published_number_of_parameters(name):
    card = zoo.card(name)
    builder = name.partition(".")[0]
    arguments = {"aux_logits": True} if builder in ("googlenet", "inception_v3") else {}
    if builder.startswith("vit_"):
        arguments["image_size"] = card.cost.min_size_hw[0]
    with torch.device("meta"), warnings.catch_warnings():
        # Copying nothing into nothing is what this test wants, and what torch warns of.
        warnings.simplefilter("ignore")
        published = zoo.builder(builder)(**zoo.untrained_arguments(builder, arguments)).state_dict()
        network = zoo.build(card, published)
    assert sum(parameter.numel() for parameter in network.parameters()) == card.cost.num_params


def test_googlenet_scales_its_input_as_its_weights_expect():
    network = zoo.build(zoo.card("googlenet"), _published_state("googlenet"))
    assert network.transform_input
    assert network.aux1 is None


def test_tensors_of_another_network_do_not_fit():
    with pytest.raises(RuntimeError, match="Missing key"):
        zoo.build(zoo.card("squeezenet1_1"), {"one": torch.zeros(1)})
