"""Results are sequences of what they found, and become arrays, COCO, supervision's types and drawings."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.helpers.results import LABELS, SAMPLES, halves, npy, rle
from visionpipe.errors import (
    ArtifactExpiredError,
    ArtifactNotFetchedError,
    InvalidRequestError,
    MissingExtraError,
)
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import ClassificationResult, Detection, DetectionResult, EmbeddingResult, Result
from visionpipe.tasks import TASKS

SIZE = (40, 24)


class Shelf:
    """Stands for a store; counts what is fetched."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def put(self, data: bytes, media_type: str) -> ArtifactRef:
        ref = ArtifactRef(key=f"artifact:{len(self.kept):064x}", media_type=media_type, size_bytes=len(data))
        self.kept[ref.key] = data
        return ref

    def fetch(self, ref: ArtifactRef) -> bytes:
        self.fetched.append(ref.key)
        if ref.key not in self.kept:
            raise ArtifactExpiredError("gone")
        return self.kept[ref.key]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def sample(task: str, shelf: Shelf, *, bound: bool = True) -> Result:
    result = SAMPLES[task](SIZE, shelf.put)
    return result.bind(shelf.fetch) if bound else result


LISTS = [task for task in TASKS if task not in ("embedding", "style_transfer")]


@pytest.mark.parametrize("task", LISTS)
def test_a_result_is_the_sequence_of_what_it_found(task, shelf):
    result = sample(task, shelf)
    parts = list(result)
    assert len(result) == len(parts) > 1
    assert result[0] == parts[0]
    assert result[-1] == parts[-1]
    for some in (result[1:], result[[1]], result[np.array([False, True] + [False] * (len(parts) - 2))]):
        assert type(some) is type(result)
        assert next(iter(some)) == parts[1]
    assert len(result[:0]) == 0
    assert result[:0]
    assert list(result.filter(where=lambda part: part == parts[1])) == [parts[1]]
    assert list(result.filter()) == parts
    for text in (str(result[:0]), result[:0].summary()):
        assert isinstance(text, str)


@pytest.mark.parametrize("task", TASKS)
def test_the_schema_and_the_json_know_nothing_of_it(task, shelf):
    bound, plain = sample(task, shelf), sample(task, shelf, bound=False)
    text = bound.model_dump_json()
    assert set(json.loads(text)) == set(type(bound).model_fields)
    back = type(bound).model_validate_json(text)
    assert back == bound
    assert bound == back
    assert pickle.loads(pickle.dumps(bound)) == bound
    assert copy.deepcopy(bound) == bound
    assert type(plain).model_json_schema() == TASKS[task].result.model_json_schema()


@pytest.mark.parametrize("task", TASKS)
def test_a_result_prints_its_summary_and_its_rows(task, shelf):
    result = sample(task, shelf)
    headline, *rest = str(result).splitlines()
    assert headline == result.summary()
    assert len(rest) == (min(len(result.rows()), 20) + 1 if result.rows() else 0)


def test_a_long_result_prints_its_first_rows():
    found = Detection(box_xyxy=(0.0, 0.0, 1.0, 1.0), class_id=1, label="dot", score=0.5)
    assert str(DetectionResult(detections=[found] * 50)).splitlines()[-1] == "  ... and 30 more"


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({"min_score": 0.7}, ["cell"]),
        ({"labels": "débris"}, ["débris"]),
        ({"labels": 1}, ["cell"]),
        ({"labels": ["cell", 2]}, ["cell", "débris"]),
        ({"labels": []}, []),
        ({"min_area": 10_000}, []),
        ({"max_area": 10_000}, ["cell", "débris"]),
    ],
)
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_things_are_filtered_by_score_class_and_area(task, how, left, shelf):
    assert [found.label for found in sample(task, shelf).filter(**how)] == left


def test_a_filtered_segmentation_keeps_the_classes_that_were_asked_for(shelf):
    result = sample("segmentation", shelf).filter(labels="cell")
    assert [entry.label for entry in result.classes] == ["cell"]
    assert result.summary().endswith("; 1 object")


def test_the_area_of_a_detection_is_that_of_its_mask():
    numbers_HW = halves(SIZE)
    box = Detection(box_xyxy=(0.0, 0.0, 10.0, 5.0), class_id=0, label="a", score=1.0)
    assert box.area_px == 50
    assert box.model_copy(update={"mask": rle(numbers_HW == 1)}).area_px == (numbers_HW == 1).sum()


def test_a_ranking_is_filtered_by_score_and_asked_for_a_class(shelf):
    result = sample("classification", shelf)
    assert result.top.label == "class 1"
    assert [entry.label for entry in result.filter(min_score=0.15)] == ["class 1", "class 2"]
    assert (result.score("class 3"), result.score(2), result.score("other")) == (0.1, 0.2, 0.0)
    assert not len(result.filter(min_score=0.9))
    assert result.filter(min_score=0.9).summary() == "no class"


def test_attacks_and_units_have_filters_of_their_own(shelf):
    attacks, units = sample("adversarial", shelf), sample("feature_visualization", shelf)
    assert [attack.epsilon for attack in attacks.filter(success=True)] == [0.03]
    assert [attack.epsilon for attack in attacks.filter(max_epsilon=0.02)] == [0.01]
    assert [unit.channel for unit in units.filter(layer="c1", channels=[2, 5], min_activation=3)] == [5]


@pytest.mark.parametrize("choice", ["cell", 1.5, [True], None])
def test_a_choice_that_is_none_is_refused(choice, shelf):
    with pytest.raises((InvalidRequestError, TypeError)):
        sample("detection", shelf)[choice]


def test_masks_come_as_arrays(shelf):
    numbers_HW = halves(SIZE)
    assert (sample("detection", shelf)[0].mask_array() == (numbers_HW == 1)).all()
    result = sample("segmentation", shelf)
    labels_HW = result.label_array()
    assert (labels_HW.dtype, labels_HW.shape) == (np.uint8, (24, 40))
    assert (labels_HW == numbers_HW).all()
    assert (result.instance_array() == numbers_HW).all()
    assert (result.class_mask("cell") == (numbers_HW == 1)).all()
    assert (result.instance_mask(2) == (numbers_HW == 2)).all()
    assert not result.class_mask("nothing").any()


def test_an_instance_map_is_made_of_masks_where_those_were_asked_for(shelf):
    result, numbers_HW = sample("segmentation", shelf), halves(SIZE)
    found = [entry.model_copy(update={"rle": rle(numbers_HW == entry.instance_id)}) for entry in result.instances]
    masked = result.model_copy(update={"instances": found, "instance_map": None})
    assert (masked.instance_array() == numbers_HW).all()
    assert (found[0].mask_array() == (numbers_HW == 1)).all()


@pytest.mark.parametrize(
    ("ask", "option"),
    [
        (lambda result: result.model_copy(update={"instance_map": None}).instance_array(), "instance_map=True"),
        (lambda result: result.instances[0].mask_array(), "rle=True"),
        (lambda result: result.probability_array(), "probabilities=True"),
        (lambda result: list(result.model_copy(update={"instances": None})), "instances=True"),
    ],
)
def test_what_was_not_asked_for_is_told_with_its_option(ask, option, shelf):
    with pytest.raises(InvalidRequestError, match=option):
        ask(sample("segmentation", shelf))


def test_probabilities_and_attributions_come_as_arrays(shelf):
    values = np.zeros((3, 24, 40), np.float16)
    ref = shelf.put(npy(values), "application/x-npy")
    result = sample("segmentation", shelf).model_copy(update={"probabilities": ref})
    assert result.probability_array().shape == (3, 24, 40)
    assert sample("explanation", shelf).attribution_array(1).shape == (24, 40)


def test_an_embedding_is_a_vector_that_can_be_compared(shelf):
    stored = sample("embedding", shelf)
    inside = EmbeddingResult(dimensions=2, layer="f", normalized=False, norm=5.0, vector=[3.0, 4.0])
    assert stored.numpy().dtype == np.float32
    assert len(stored) == 84 == len(stored.numpy())
    assert stored.cosine(stored) == pytest.approx(1)
    assert inside.cosine([-3.0, -4.0]) == pytest.approx(-1)
    assert inside.cosine(np.array([4.0, -3.0])) == pytest.approx(0)
    assert inside.cosine([0.0, 0.0]) == 0
    with pytest.raises(InvalidRequestError, match="2 and 84"):
        inside.cosine(stored)


def test_artifacts_are_fetched_once_when_needed_and_kept(shelf):
    result = sample("segmentation", shelf)
    assert shelf.fetched == []
    result.label_array()
    result.label_array()
    assert shelf.fetched == [result.label_map.key]
    assert result.filter(labels="cell").label_array().shape == (24, 40)
    assert len(shelf.fetched) == 1


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("classification", "detection")])
def test_a_result_made_by_hand_says_how_to_fetch_its_artifacts(task, shelf):
    result = sample(task, shelf, bound=False)
    with pytest.raises(ArtifactNotFetchedError, match=r"client.load\(result\).*result.bind\(client.artifact\)"):
        result.draw(np.zeros((24, 40), np.uint8))
    for _, ref in result.artifacts():
        result.keep(ref, shelf.kept[ref.key])
    assert result.draw(np.zeros((24, 40), np.uint8)).mode == "RGB"
    assert shelf.fetched == []


def test_an_artifact_that_expired_says_so(shelf):
    result = sample("segmentation", shelf)
    shelf.kept.clear()
    with pytest.raises(ArtifactExpiredError):
        result.label_array()


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_coco_reads_what_was_written(task, shelf, tmp_path, capsys):
    written = sample(task, shelf).to_coco(image_id=7, first_id=3, category_ids={1: 11, 2: 12})
    assert [entry["id"] for entry in written] == [3, 4]
    dataset = {
        "info": {},
        "images": [{"id": 7, "width": 40, "height": 24}],
        "categories": [{"id": 11, "name": "cell"}, {"id": 12, "name": "d"}],
        "annotations": written,
    }
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    truth = COCO(str(tmp_path / "truth.json"))
    found = truth.loadRes(json.loads(json.dumps(written)))
    assert found.getAnnIds(catIds=[12]) == [2]
    x, y, width, height = written[1]["bbox"]
    assert (x + width, y + height) <= (40, 24)
    from pycocotools import mask

    numbers_HW = halves(SIZE)
    assert mask.area(written[0]["segmentation"]) == (numbers_HW == 1).sum()
    assert mask.toBbox(written[1]["segmentation"]).tolist() == [20, 3, 15, 18]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_supervision_takes_boxes_classes_scores_and_masks(task, shelf):
    found = sample(task, shelf).to_supervision()
    assert found.class_id.tolist() == [1, 2]
    assert found.confidence.tolist() == [0.75, 0.5]
    assert found["class_name"].tolist() == LABELS[1:]
    assert (found.mask == np.stack([halves(SIZE) == 1, halves(SIZE) == 2])).all()
    assert len(found[found.confidence > 0.6]) == 1


def test_supervision_takes_results_without_anything(shelf):
    assert len(DetectionResult(detections=[]).to_supervision()) == 0
    assert len(sample("segmentation", shelf)[:0].to_supervision()) == 0
    assert sample("classification", shelf).to_supervision().get_top_k(1)[0].tolist() == [1]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.JSON"])
def test_a_result_is_saved_by_its_suffix(name, shelf, tmp_path):
    result = sample("detection", shelf)
    result.save(tmp_path / name, Image.new("RGB", SIZE))
    if name.endswith("JSON"):
        assert DetectionResult.model_validate_json((tmp_path / name).read_text()) == result
    else:
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) >= 384


def test_an_embedding_is_saved_as_an_array(shelf, tmp_path):
    result = sample("embedding", shelf)
    result.save(tmp_path / "vector.npy")
    assert (np.load(tmp_path / "vector.npy") == result.numpy()).all()


def test_a_suffix_that_is_no_pictures_is_refused(shelf, tmp_path):
    for name in ("a.docx", "a"):
        with pytest.raises(InvalidRequestError, match=r"\.png"):
            sample("detection", shelf).save(tmp_path / name, Image.new("RGB", SIZE))
    assert not list(tmp_path.iterdir())


def test_what_is_drawn_over_an_image_needs_the_image(shelf):
    with pytest.raises(InvalidRequestError, match="pass the image"):
        sample("detection", shelf).draw()
    assert sample("style_transfer", shelf).draw().size == SIZE
    assert sample("embedding", shelf).draw().mode == "RGB"


def test_a_missing_package_is_told_with_the_extra_that_brings_it(shelf, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("visionpipe.drawing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "supervision", None)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for call in (
        lambda: sample("detection", shelf).draw(Image.new("RGB", SIZE)),
        lambda: DetectionResult(detections=[]).to_supervision(),
        lambda: sample("detection", shelf)[0].mask_array(),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'visionpipe\[images\]'"):
            call()


def test_a_result_without_anything_is_still_a_result():
    assert DetectionResult(detections=[])
    assert ClassificationResult.model_construct(classes=[])
