import pytest
import torch

from models.catalog import Catalog
from models.errors import InvalidCard, ModelLoadFailed
from models.loading import load
from models.networks import yolo


@pytest.mark.parametrize(
    ("name", "cls", "heads"),
    [
        ("yolo11n", "DetectionModel", 4 + 3),
        ("yolo26n", "DetectionModel", 4 + 3),
        ("yolov8n-seg", "SegmentationModel", 4 + 3 + 32),
    ],
)
def test_networks_are_those_of_ultralytics_with_the_classes_asked_for(name, cls, heads):
    network = yolo.build(name, nc=3).eval()
    assert type(network).__name__ == cls
    assert type(network).__module__ == "ultralytics.nn.tasks"
    # What the one-to-many head gives; v10 and 26 answer through their other head unless told otherwise.
    network.end2end = False
    with torch.inference_mode():
        decoded = network(torch.rand(2, 3, 64, 96))[0]
    boxes = decoded[0] if isinstance(decoded, tuple) else decoded
    assert boxes.shape == (2, heads, 8 * 12 + 4 * 6 + 2 * 3)


def test_the_scale_makes_the_size_and_channels_can_be_chosen():
    small, large = (sum(p.numel() for p in yolo.build(name, nc=2).parameters()) for name in ("yolo11n", "yolo11s"))
    assert 2.4e6 < small < 2.8e6
    assert large > 3 * small
    assert next(yolo.build("yolo11n", nc=2, ch=1).parameters()).shape[1] == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("yolo99n", "yolo11, .*got 'yolo99n'"),
        ("../../secret", "got '../../secret'"),
        ("yolo11n-pose", "'yolo11n-pose' has Pose"),
        ("yolov8n-worldv2", "has WorldDetect"),
        ("yolo11n-cls", "has Classify"),
    ],
)
def test_what_ultralytics_does_not_describe_or_we_do_not_host_is_refused(name, told):
    with pytest.raises(InvalidCard, match=told):
        yolo.build(name)


def test_a_card_builds_one_and_fills_in_weights_in_half_precision(write_model):
    torch.manual_seed(3)
    network = yolo.build("yolo11n", nc=3)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    more = "[arguments]\nnc = 3\n"
    folder = write_model("mine", network="ultralytics:yolo11n", more=more, state=state)
    loaded = load(Catalog(folder).find("mine"))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for one, other in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_fusing_changes_the_layers_and_not_the_answers():
    torch.manual_seed(3)
    network = yolo.build("yolo11n", nc=3).eval()
    x_NCHW = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = network(x_NCHW)[0]
        num_layers = len(list(network.modules()))
        after = yolo.fuse(network)(x_NCHW)[0]
    assert len(list(network.modules())) < num_layers
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.fixture
def checkpoint(write_model):
    def write(name="yolo11n", *, content=None):
        folder = write_model("mine", network="ultralytics:checkpoint", more='[weights]\nfile = "best.pt"\n')
        network = yolo.build(name, nc=2)
        network.names = {0: "cat", 1: "dog"}
        torch.save(
            {"model": network.half(), "train_args": {"task": "detect"}} if content is None else content,
            folder / "mine" / "best.pt",
        )
        return network, Catalog(folder).find("mine")

    return write


def test_a_checkpoint_brings_its_network_its_weights_and_its_names(checkpoint):
    saved, entry = checkpoint()
    network = load(entry)
    assert network.names == {0: "cat", 1: "dog"}
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    torch.testing.assert_close(next(network.parameters()), next(saved.parameters()).float())


def test_a_damaged_checkpoint_is_told(checkpoint):
    _, entry = checkpoint(content={"weights": [1, 2]})
    with pytest.raises(ModelLoadFailed, match="expected a checkpoint that ultralytics saved"):
        load(entry)
    (entry.folder / "best.pt").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ModelLoadFailed, match=r"best.pt"):
        load(entry)


def test_a_checkpoint_card_must_name_its_file(write_model):
    folder = write_model("mine", network="ultralytics:checkpoint")
    with pytest.raises(InvalidCard, match=r"weights: expected the .pt file"):
        load(Catalog(folder).find("mine"))


def test_a_missing_checkpoint_is_told(tmp_path):
    with pytest.raises(ModelLoadFailed, match="found no file"):
        yolo.read_checkpoint(tmp_path / "yolo11n.pt")
