"""Stages for the faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.forge import Forge, opened_forge
from tests.faults.probe_model import ProbeModel
from tests.faults.stage import Stage


@pytest.fixture(scope="session")
def _forge() -> Iterator[Forge]:
    with opened_forge() as forge:
        yield forge


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeModel]:
    models = tmp_path_factory.mktemp("models")
    return models, ProbeModel(models)


@pytest.fixture
def forge(_forge: Forge) -> Iterator[Forge]:
    yield _forge
    _forge.clear()


@pytest.fixture
def make_stage(forge: Forge, _models: tuple[Path, ProbeModel]) -> Iterator[Callable[[str], Stage]]:
    models, probe = _models
    probe.reset()
    made: list[Stage] = []

    def make(redis_url: str) -> Stage:
        made.append(Stage(forge, redis_url, models, probe))
        return made[-1]

    yield make
    forge.clear()
    for stage in made:
        stage.redis.close()


@pytest.fixture
def stage(make_stage: Callable[[str], Stage], redis_url: str) -> Stage:
    return make_stage(redis_url)
