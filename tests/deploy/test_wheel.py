from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inside():
    return {file.distribution_path for file in WheelBuilder(str(REPOSITORY)).recurse_included_files()}


def test_the_wheel_holds_the_three_packages_with_the_bundled_models_and_their_pictures(inside):
    assert {path.partition("/")[0] for path in inside} == {"visionpipe", "workers", "models"}
    folder = REPOSITORY / "models" / "bundled" / "lenet-digits"
    expected = {path.relative_to(REPOSITORY).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert len(expected) > 10
    assert expected <= inside


def test_the_wheel_holds_what_is_no_python(inside):
    others = [
        path
        for suffix in ("lua", "cpp")
        for package in ("visionpipe", "workers", "models")
        for path in (REPOSITORY / package).rglob(f"*.{suffix}")
    ]
    assert len(others) > 10
    assert {path.relative_to(REPOSITORY).as_posix() for path in others} <= inside


def test_the_wheel_leaves_out_the_model_that_is_under_the_agpl_which_a_checkout_has(inside):
    assert (REPOSITORY / "models" / "bundled" / "yolo-digits" / "card.toml").is_file()
    assert not [path for path in inside if "yolo-digits" in path]


def test_no_model_in_the_wheel_is_under_the_agpl(inside):
    cards = [path for path in inside if path.endswith("card.toml")]
    assert cards
    assert not [path for path in cards if "AGPL" in (REPOSITORY / path).read_text(encoding="utf-8")]
