import math

import pytest
import torch
from torch.nn import functional

from models.networks.stn import SpatialTransformerNetwork, compose, sample

SMALL = {"classifier_channels": (4, 8), "localisation_channels": (4, 4), "localisation_features": 8}


def build(**arguments):
    torch.manual_seed(0)
    return SpatialTransformerNetwork(**{**SMALL, **arguments}).eval()


def fixed(network, *thetas):
    """Let each localisation network answer one matrix."""
    for localisation, theta in zip(network.localisations, thetas, strict=True):
        change = torch.tensor(theta) - torch.tensor([1.0, 0, 0, 0, 1.0, 0])
        torch.nn.init.zeros_(localisation.affine.weight)
        with torch.no_grad():
            localisation.affine.bias.copy_(change)
    return network


@pytest.mark.parametrize("num_transformers", [1, 2, 3])
def test_an_untrained_network_attends_to_the_whole_input(num_transformers):
    network = build(num_transformers=num_transformers)
    x_NCHW = torch.rand(3, 1, 64, 64)
    logits, theta, rectified = network(x_NCHW)
    assert logits.shape == (3, 10)
    assert theta.tolist() == [[[1, 0, 0], [0, 1, 0]]] * 3
    # At half the size bilinear samples lie between four pixels.
    torch.testing.assert_close(rectified, functional.avg_pool2d(x_NCHW, 2))
    torch.testing.assert_close(network.classifier(rectified), logits)


def test_without_a_transformer_the_same_classifier_sees_the_whole_input():
    plain, attending = build(num_transformers=0), build(num_transformers=2)
    x_NCHW = torch.rand(2, 1, 64, 48)
    logits, theta, rectified = plain(x_NCHW)
    assert torch.equal(rectified, x_NCHW)
    assert theta.tolist() == [[[1, 0, 0], [0, 1, 0]]] * 2
    assert torch.equal(logits, plain.classifier(x_NCHW))
    shapes = [[p.shape for p in network.classifier.parameters()] for network in (plain, attending)]
    assert shapes[0] == shapes[1]
    assert sum(1 for _ in plain.parameters()) == len(shapes[0])


@pytest.mark.parametrize(
    ("theta", "window"),
    [
        ([0.5, 0, -0.5, 0, 0.5, -0.5], (slice(0, 32), slice(0, 32))),
        ([0.5, 0, 0.25, 0, 0.5, -0.125], (slice(12, 44), slice(24, 56))),
    ],
    ids=["top_left_quarter", "right_of_the_middle"],
)
def test_the_rectified_image_is_what_theta_frames(theta, window):
    network = fixed(build(), theta)
    x_NCHW = torch.rand(2, 1, 64, 64)
    _, told, rectified = network(x_NCHW)
    assert told[0].flatten().tolist() == pytest.approx(theta)
    torch.testing.assert_close(rectified, x_NCHW[:, :, window[0], window[1]], atol=1e-5, rtol=0)


def test_a_quarter_turn_is_undone():
    x_NCHW = torch.rand(1, 1, 32, 32)
    # From the rectified image's right to the input's bottom: the input is what was turned clockwise.
    _, _, rectified = fixed(build(), [0.0, -1, 0, 1, 0, 0])(x_NCHW.rot90(-1, dims=(2, 3)))
    torch.testing.assert_close(rectified, x_NCHW, atol=1e-5, rtol=0)


def test_transformers_in_turn_refine_one_matrix_and_sample_the_input_itself():
    first, second = [0.5, 0, 0.5, 0, 0.5, 0], [0.0, -1, 0.2, 1, 0, 0]
    x_NCHW = torch.rand(1, 1, 64, 64)
    _, theta, rectified = fixed(build(num_transformers=2), first, second)(x_NCHW)
    assert theta[0].flatten().tolist() == pytest.approx([0, -0.5, 0.6, 0.5, 0, 0])
    torch.testing.assert_close(rectified, sample(x_NCHW, theta, side_px=32))


def test_matrices_compose_inner_first_in_full_precision_under_autocast():
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3), 0.1], [math.sin(0.3), math.cos(0.3), 0.2], [0, 0, 1]])
    with torch.autocast("cpu", torch.bfloat16):
        found = compose(turn[None], turn[None])[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (turn.double() @ turn.double()).float(), atol=1e-6, rtol=0)


def test_the_class_label_alone_moves_every_localisation_network():
    network = build(num_transformers=2).train()
    logits, _, _ = network(torch.rand(4, 1, 64, 64))
    functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(localisation.affine.weight.grad.abs().max() > 0 for localisation in network.localisations)


def test_reduced_precision_keeps_theta_in_single():
    network = fixed(build(), [0.5, 0, 0.25, 0, 0.5, -0.125]).to(torch.bfloat16)
    x_NCHW = torch.rand(1, 1, 64, 64).to(torch.bfloat16)
    logits, theta, rectified = network(x_NCHW)
    assert (logits.dtype, theta.dtype, rectified.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert torch.equal(rectified, x_NCHW[:, :, 12:44, 24:56])


def test_sizes_are_arguments():
    network = build(num_classes=3, in_channels=3, rectified_px=20, localisation_px=16)
    logits, _, rectified = network(torch.rand(2, 3, 50, 70))
    assert logits.shape == (2, 3)
    assert rectified.shape == (2, 3, 20, 20)
