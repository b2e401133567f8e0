"""How the demo holds answers against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionpipe.demo.score import score


def write_results(out: Path, results: list[dict[str, Any] | None], **more: Any) -> None:
    rows = [{"path": f"{i}.png", "result": result, "artifacts": {}, **more} for i, result in enumerate(results)]
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def named(*labels: str) -> list[dict[str, Any]]:
    return [{"label": label, "score": 0.9} for label in labels]


CASES = [
    pytest.param(
        "spatial_transformer",
        [{"classes": named("1", "2")}, {"classes": named("2", "1")}, None],
        {"0.png": "1", "1.png": "1", "2.png": "3"},
        "1 of 2 read right",
        id="labels",
    ),
    pytest.param(
        "detection",
        [{"detections": named("1", "1", "2")}, {"detections": named()}],
        {"0.png": ["1", "2", "3"], "1.png": ["4"]},
        "2 of 4 found and read right, 1 too many",
        id="things",
    ),
    pytest.param(
        "segmentation",
        [{"instances": [{}] * 5}, {"instances": [{}] * 2}],
        {"0.png": 4, "1.png": 3},
        "7 objects told apart of 7, off by 2",
        id="objects",
    ),
    pytest.param(
        "style_transfer",
        [{"losses": [{"total": 10.0}, {"total": 0.5}, {"total": 1.0}]}],
        {},
        "loss falls by 95% to 95%",
        id="painted",
    ),
    pytest.param(
        "adversarial",
        [
            {"before": {"label": "1"}, "attacks": [{"epsilon": 8 / 255, "success": False}]},
            {"before": {"label": "2"}, "attacks": [{"epsilon": 8 / 255, "success": True}]},
        ],
        {"0.png": "1", "1.png": "2"},
        "2 of 2 read right; under attack 1 at 8/255",
        id="fooled",
    ),
    pytest.param(
        "feature_visualization",
        [{"units": [{"channel": 1, "pattern": {}}, {"channel": 2, "pattern": None}]}],
        {},
        "1 patterns of 2 units",
        id="units",
    ),
    pytest.param("classification", [None], {}, "no results", id="nothing"),
]


@pytest.mark.parametrize(("task", "results", "truth", "expected"), CASES)
def test_a_run_is_held_against_the_truth(
    tmp_path: Path, task: str, results: list[Any], truth: dict[str, Any], expected: str
) -> None:
    write_results(tmp_path, results)
    assert score(task, tmp_path, truth) == expected


def test_features_are_judged_by_their_nearest_neighbours(tmp_path: Path) -> None:
    vectors = [[1, 0.1], [2, 0.1], [0.1, 1], [0.2, 3], [1, 0]]
    for index, vector in enumerate(vectors):
        np.save(tmp_path / f"{index}.npy", np.asarray(vector, dtype=np.float32))
    rows = [{"path": f"{i}.png", "result": {"x": 1}, "artifacts": {"artifact": f"{i}.npy"}} for i in range(5)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    truth = {"0.png": "a", "1.png": "a", "2.png": "b", "3.png": "b", "4.png": "b"}
    assert score("embedding", tmp_path, truth) == "nearest neighbour has the same label for 4 of 5"


def test_an_explanation_is_judged_by_where_its_evidence_lies(tmp_path: Path) -> None:
    attribution_HW = np.zeros((10, 10), dtype=np.float32)
    attribution_HW[1, 1], attribution_HW[8, 8], attribution_HW[5, 5] = 3, 1, -7
    np.save(tmp_path / "0.npy", attribution_HW)
    row = {"path": "0.png", "result": {"x": 1}, "artifacts": {"attributions.0.attribution": "0.npy"}}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    truth = {"0.png": [[0, 0], [4, 0], [4, 4], [0, 4]]}
    told = score("explanation", tmp_path, truth)
    assert told == "75% of the evidence lies in the digit's square, 25% of the picture"
