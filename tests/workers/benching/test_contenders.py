"""Models with settings, as words of a command line."""

from __future__ import annotations

import pytest

from visionpipe.errors import SettingsError
from visionpipe.settings import Settings
from workers.benching.contenders import parse_contender


def test_a_word_names_a_model_and_how_its_worker_is_run():
    found = parse_contender(
        "resnet18@0123456789ab:precision=fp32,max_batch=8,workers=3,decode_threads=3,full_decode=true"
    )
    assert found.model == "resnet18@0123456789ab"
    spec, settings = found.spec(), found.settings(Settings(compile="off"))
    assert (found.workers, parse_contender("m").workers) == (3, 1)
    assert (spec.precision, spec.max_batch, spec.device) == ("fp32", 8, "auto")
    assert (settings.decode_threads, settings.full_decode, settings.compile) == (3, True, "off")


def test_a_word_goes_before_an_option():
    found = parse_contender("m:max_batch=8", {"max_batch": 4, "precision": "bf16", "device": None})
    assert (found.spec().max_batch, found.spec().precision) == (8, "bf16")


@pytest.mark.parametrize(
    ("word", "base", "compiles"),
    [("m", "auto", "now"), ("m", "off", "off"), ("m:compile=off", "auto", "off"), ("m:compile=auto", "off", "auto")],
)
def test_a_worker_is_compiled_before_it_is_measured_unless_told_otherwise(word, base, compiles):
    assert parse_contender(word).settings(Settings(compile=base)).compile == compiles


@pytest.mark.parametrize(
    "word",
    ["m:speed=9", "m:precision", "m:max_batch=0", "m:workers=0", "m:max_batch=x", "m:compile=maybe",
     "m:max_batch=1,max_batch=2", ":max_batch=2", "m:decode_threads=-1"],
)  # fmt: skip
def test_a_wrong_word_is_told(word):
    with pytest.raises(SettingsError):
        parse_contender(word)
