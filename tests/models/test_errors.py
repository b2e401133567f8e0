import pytest

from models import errors
from visionpipe.errors import VisionPipeError, error_class

CONCRETE = [
    errors.UnknownModel,
    errors.InvalidCard,
    errors.WeightsUnavailable,
    errors.WeightsMismatch,
    errors.InvalidImage,
    errors.UnsupportedImage,
    errors.ImageTooLarge,
]


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_every_code_is_one_that_the_service_knows(error):
    assert error_class(error.code) is not VisionPipeError


def test_an_error_keeps_its_message_and_details():
    error = errors.ImageTooLarge("Expected less.", max_pixels=3)
    assert (str(error), error.message, error.details) == ("Expected less.", "Expected less.", {"max_pixels": 3})
    assert repr(error) == "ImageTooLarge('Expected less.')"
