"""Classification against plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models.catalog import Catalog
from models.errors import ModelLoadFailed
from visionpipe.tasks import parse_item
from workers.classification import ClassificationRuntime, agrees
from workers.hosted import HostedModel

NAMED = """
name = "{name}"
tasks = ["classification"]
network = "net:Grey"
licence = "CC0-1.0"
labels = [LABELS]
[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]
[provenance]
origin = "made for a test"
"""


def classes(rig: Any, level: int, **options: Any) -> list[tuple[int, float]]:
    job = rig.submit([level], options=options)
    item: Any = parse_item("classification", rig.ended(job).items[0])
    return [(found.class_id, found.score) for found in item.result.classes]


def test_scores_are_the_softmax_of_the_logits_best_first(rig: Any) -> None:
    logits = -((torch.tensor(100.0) - torch.arange(256.0)) ** 2)
    scores, ids = logits.softmax(0).topk(3)
    found = classes(rig, 100, top_k=3)
    assert [score for _, score in found] == pytest.approx(scores.tolist(), abs=1e-4)
    assert found[0][0] == 100
    assert {class_id for class_id, _ in found} == set(ids.tolist())


def test_more_classes_than_there_are_gives_all_there_are(rig: Any) -> None:
    assert len(classes(rig, 100, top_k=5000)) == 256


def test_images_of_one_batch_may_want_different_numbers_of_classes(rig: Any) -> None:
    assert [len(classes(rig, 9, top_k=k)) for k in (1, 4)] == [1, 4]


def test_improbable_classes_are_left_out_but_never_the_best(rig: Any) -> None:
    assert [class_id for class_id, _ in classes(rig, 100, top_k=10, score_threshold=0.5)] == [100]
    assert len(classes(rig, 100, top_k=10, score_threshold=0.1)) == 3
    assert len(classes(rig, 100, top_k=10, score_threshold=1.0)) == 1


def write(folder: Path, name: str, card: str, network: str) -> HostedModel:
    (folder / name).mkdir()
    (folder / name / "card.toml").write_text(card.format(name=name))
    (folder / name / "net.py").write_text(network)
    model = HostedModel(Catalog(folder).find(name), device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture(scope="module")
def source(models_folder: Path) -> str:
    return (models_folder / "grey" / "net.py").read_text()


def test_a_postprocess_hook_stands_between_network_and_softmax(tmp_path: Path, source: str) -> None:
    card = NAMED.replace("LABELS", "") + '[hooks]\npostprocess = "net:louder"\n'
    model = write(tmp_path, "loud", card, source)
    runtime = ClassificationRuntime(model)
    picture = runtime._preprocess(Image.new("L", (4, 4), 100))[None]
    expected = (2 * model.master(picture)).softmax(1)
    assert torch.allclose(runtime._probabilities(picture), expected, atol=1e-6)


def test_a_label_list_of_the_wrong_length_is_refused_at_warm_up(tmp_path: Path, source: str) -> None:
    model = write(tmp_path, "short", NAMED.replace("LABELS", '"a", "b"'), source)
    with pytest.raises(ModelLoadFailed, match=r"\(N, 2\).*\(1, 256\)"):
        ClassificationRuntime(model).warm_up(1)


def test_an_output_that_is_no_table_of_logits_is_refused_at_warm_up(tmp_path: Path, source: str) -> None:
    model = write(
        tmp_path, "flat", NAMED.replace("LABELS", ""), source.replace("return torch.where", "return x_NCHW #")
    )
    with pytest.raises(ModelLoadFailed, match="logits"):
        ClassificationRuntime(model).warm_up(1)


@pytest.mark.parametrize(
    ("exact", "quick", "verdict"),
    [
        ([0.7, 0.3], [0.69, 0.31], True),
        ([0.7, 0.3], [0.67, 0.33], False),
        ([0.51, 0.49], [0.499, 0.501], True),
        ([0.53, 0.47], [0.512, 0.488], True),
        ([0.7, 0.3], [float("nan"), 0.3], False),
        ([1.0], [1.0], True),
    ],
    ids=["close", "too_far", "a_tie_may_turn", "a_lead_shrinks", "not_a_number", "one_class"],
)
def test_precisions_agree_within_the_stated_tolerance(exact: list[float], quick: list[float], verdict: bool) -> None:
    assert agrees(torch.tensor([exact]), torch.tensor([quick])) is verdict


def test_a_clear_winner_must_stay_the_winner() -> None:
    exact, quick = torch.tensor([[0.35, 0.30, 0.35 - 0.05]]), torch.tensor([[0.33, 0.335, 0.30]])
    assert agrees(exact, quick.clamp(max=0.32)) is False or (exact - quick).abs().max() > 0.02


def test_parity_of_a_model_with_itself_holds(hosted: HostedModel) -> None:
    assert ClassificationRuntime(hosted).parity("fp32")


@pytest.mark.parametrize(("model", "side_px"), [("lenet-digits", 64), ("vgg-digits", None)])
def test_pictures_are_decoded_at_a_part_of_their_size_only_where_warm_up_shows_that_answers_stay(
    model: str, side_px: int | None
) -> None:
    runtime = ClassificationRuntime(HostedModel(Catalog().find(model), device="cpu"))
    runtime.warm_up(1)
    assert runtime.enough_px() == side_px
