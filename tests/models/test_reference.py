"""Our path (decode, preprocess, load) against torchvision's own reference pipeline, on photographs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as registry

from models import zoo
from models.catalog import Catalog
from models.images import Preprocess, decode
from models.loading import load

NAMES = ["resnet18", "mobilenet_v3_small", "efficientnet_b0"]


def calibrated(name, inputs):
    """A random network whose normalisation has seen data and whose probabilities differ from picture to picture."""
    torch.manual_seed(5)
    network = registry.get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(inputs)
        logits = network.eval()(inputs)
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        centred = logits - logits.mean(dim=0)
        head.weight *= 4 / centred.std()
        head.bias -= logits.mean(dim=0) * 4 / centred.std()
    return network


def reference_inputs(photographs, transforms):
    return [transforms(Image.open(io.BytesIO(data)).convert("RGB")) for data in photographs]


@torch.inference_mode()
def probabilities(network, inputs, batch):
    return torch.cat([network(torch.stack(part)).softmax(1) for part in _parts(inputs, batch)])


def _parts(inputs, batch):
    return [inputs[start : start + batch] for start in range(0, len(inputs), batch)]


@pytest.fixture(params=NAMES)
def pair(request, photographs, write_model):
    """A network's name, its reference inputs and probabilities, and the same weights as a user's model."""
    name = request.param
    inputs = reference_inputs(photographs, registry.get_model_weights(name).DEFAULT.transforms())
    network = calibrated(name, torch.stack(inputs[:12]))
    preset = zoo.card(name).preprocess
    more = f'[preprocess]\nresize = {preset.resize}\ncrop = {preset.crop}\ninterpolation = "{preset.interpolation}"\n'
    root = write_model(name, network=f"torchvision:{name}", state=network.state_dict(), more=more)
    return Catalog(root).find(name), probabilities(network.eval(), inputs, 10)


def test_probabilities_equal_torchvisions_over_fifty_photographs(pair, photographs):
    entry, expected = pair
    assert entry.source == "user"
    assert len(photographs) == 50
    images = [decode(data, max_bytes=10**8, max_pixels=10**8).image for data in photographs]
    assert len({image.size for image in images}) >= 40
    network, preprocess = load(entry), Preprocess(entry.card.preprocess)
    ours = probabilities(network, [preprocess(image) for image in images], 8)
    assert (ours - expected).abs().max() <= 1e-3

    # The comparison can fail: answers differ between pictures, and slightly wrong pixels show.
    assert expected.max(dim=1).values.median() > 0.05
    assert len(set(expected.argmax(dim=1).tolist())) > 5
    swapped = [preprocess(Image.fromarray(np.array(image.convert("RGB"))[..., ::-1].copy())) for image in images[:8]]
    shrunk = Preprocess(entry.card.preprocess.model_copy(update={"resize": entry.card.preprocess.crop + 1}))
    nearest = Preprocess(entry.card.preprocess.model_copy(update={"interpolation": "nearest"}))
    for wrong in (swapped, [shrunk(image) for image in images[:8]], [nearest(image) for image in images[:8]]):
        assert (probabilities(network, wrong, 8) - expected[:8]).abs().max() > 1e-2
