"""The stages without a queue: every kind of task has them."""

from __future__ import annotations

import pytest

from visionpipe.errors import ModelLoadError
from visionpipe.settings import Settings
from workers.benching.asking import find
from workers.benching.bare import BareModel
from workers.benching.bare_process import bare_process
from workers.benching.measures import Question
from workers.benching.pictures import fill_folder, generated


@pytest.mark.parametrize(
    ("model", "task", "options", "batch"),
    [
        ("lenet-digits", "classification", {}, 8),
        ("lenet-digits", "embedding", {"as_artifact": True}, 4),
        ("vgg-digits", "explanation", {"method": "saliency"}, 1),
    ],
)
def test_every_stage_is_measured(tmp_path, model, task, options, batch):
    entry = find(model, Settings())
    fill_folder(tmp_path / "in", generated(entry.card, 4), 6)
    question = Question(
        model=entry.target, task=task, options=options, device="cpu", precision="fp32", compiled=False,
        max_batch=batch, folder=str(tmp_path / "in"), num_images=4, seconds=0.02,
    )  # fmt: skip
    bare = BareModel(question, Settings(data_dir=tmp_path))
    found = bare.round()
    assert found is not None
    for stage in (found.decode, found.forward, found.postprocess):
        assert stage.images_per_s > 0
        assert stage.core_ms > 0
    sizes = [one.batch for one in bare.batches()]
    assert sizes == [] if task == "explanation" else sizes[:3] == [1, 2, 4]
    assert bare.thread_rates()[0].threads == 1


def test_the_process_answers_word_by_word_and_says_what_is_wrong(tmp_path):
    entry = find("lenet-digits", Settings())
    fill_folder(tmp_path / "in", generated(entry.card, 2), 2)
    question = Question(
        model=entry.target, task="classification", options={"top_k": 1}, device="cpu", precision="fp32",
        compiled=False, max_batch=4, folder=str(tmp_path / "in"), num_images=2, seconds=0.02,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path, decode_threads=1)
    with bare_process(question, settings) as bare:
        assert bare.decode_threads == 1
        found = bare.round()
        assert found is not None
        assert found.forward.images_per_s > 0
    with pytest.raises(ModelLoadError), bare_process(question.model_copy(update={"precision": "fp8"}), settings):
        pass
