import numpy as np
import pytest

from models.recipes import coco
from models.recipes.pages import Page

LABELS = ("0", "1", "2")
BOX = (100.0, 100.0, 200.0, 200.0)
FAR = (10.0, 10.0, 60.0, 60.0)


def _page(*objects):
    boxes, labels = zip(*objects, strict=True)
    return Page(np.zeros((320, 320, 3), np.uint8), np.array(boxes, np.float32), np.array(labels, np.int64))


def _found(*objects):
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in objects], np.float32)
    return coco.Detections(boxes, scores, np.array([label for _, label, _ in objects], np.int64))


def _evaluate(pages, found):
    answers = iter(found)
    return coco.evaluate(lambda batch: [next(answers) for _ in batch], pages, LABELS)


def _shifted(pixels):
    return (BOX[0] + pixels, BOX[1], BOX[2] + pixels, BOX[3])


CASES = {
    "everything found": ([(BOX, 0, 0.9), (FAR, 1, 0.8)], 1.0, 1.0),
    "nothing found": ([], 0.0, 0.0),
    # IoU 82 / 118 = 0.69: matches at four of the ten thresholds, the other class at all.
    "a box moved by 18 of 100": ([(_shifted(18), 0, 0.9), (FAR, 1, 0.8)], 1.0, (0.4 + 1) / 2),
    # IoU 60 / 140 = 0.43: matches at none.
    "a box moved by 40 of 100": ([(_shifted(40), 0, 0.9), (FAR, 1, 0.8)], 0.5, 0.5),
    "one of two classes found": ([(BOX, 0, 0.9)], 0.5, 0.5),
    "classes mixed up": ([(BOX, 1, 0.9), (FAR, 0, 0.8)], 0.0, 0.0),
    "a weaker double harms nothing": ([(BOX, 0, 0.9), (BOX, 0, 0.3), (FAR, 1, 0.8)], 1.0, 1.0),
    # Precision is 1/2 at every recall.
    "a stronger ghost halves the precision": (
        [(BOX, 0, 0.5), ((250, 250, 300, 300), 0, 0.9), (FAR, 1, 0.8)],
        0.75,
        0.75,
    ),
}


@pytest.mark.parametrize(("found", "map50", "map50_95"), CASES.values(), ids=CASES.keys())
def test_known_answers(found, map50, map50_95):
    measured = _evaluate([_page((BOX, 0), (FAR, 1))], [_found(*found)])
    assert measured.map50 == pytest.approx(map50, abs=1e-6)
    assert measured.map50_95 == pytest.approx(map50_95, abs=1e-6)


def test_half_of_the_objects_of_a_class_give_half_the_area():
    pages = [_page((BOX, 0)), _page((BOX, 0))]
    measured = _evaluate(pages, [_found((BOX, 0, 0.9)), _found()])
    # Recall is sampled at 0, 0.01, ..., 1: 51 of 101 lie at or below a half.
    assert measured.map50 == pytest.approx(51 / 101)


def test_classes_that_appear_on_no_page_do_not_count():
    measured = _evaluate([_page((BOX, 0)), _page((FAR, 2))], [_found((BOX, 0, 0.9)), _found((FAR, 1, 0.9))])
    assert measured.per_class == {"0": pytest.approx(1.0), "2": pytest.approx(0.0)}
    assert (measured.num_pages, measured.num_objects) == (2, 2)


def test_pages_go_in_batches_and_keep_their_numbers(capsys):
    pages = [_page(((10 + 2 * n, 10, 60 + 2 * n, 60), n % 3)) for n in range(2 * coco.BATCH + 3)]
    sizes = []

    def detect(batch):
        first = sum(sizes)
        sizes.append(len(batch))
        return [_found((tuple(page.boxes_xyxy[0]), page.labels[0], 0.5)) for page in pages[first : first + len(batch)]]

    assert coco.evaluate(detect, pages, LABELS).map50_95 == pytest.approx(1.0)
    assert sizes == [coco.BATCH, coco.BATCH, 3]
    assert capsys.readouterr().out == ""
