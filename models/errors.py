"""Every error of this package.

ModelError
├── UnknownModel            unknown_model
├── ModelLoadFailed         model_load_failed
│   ├── InvalidCard
│   ├── CompileFailed
│   ├── WeightsUnavailable
│   └── WeightsMismatch
├── UnknownLayer            invalid_request
├── RetrainFailed           retrain_failed
│   ├── InvalidDataset          invalid_dataset
│   └── ModelExists             model_exists
├── UnsupportedOption       invalid_request
│   └── NoSuchDevice            invalid_settings
└── InvalidImage            invalid_image
    ├── UnsupportedImage        unsupported_image
    └── ImageTooLarge           image_too_large

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ModelError(Exception):
    """The root of this package's errors.

    Args:
        message: What was expected, what came, what to do.
        details: Machine-readable facts that go with the error; JSON values only.
    """

    code: ClassVar[str] = "model_error"
    """Stable name of the error, the same one that the service uses on the wire."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"


class UnknownModel(ModelError):
    """No card has that name, or the pinned digest is another one."""

    code = "unknown_model"


class ModelLoadFailed(ModelError):
    """A card, its code or its weights cannot be used."""

    code = "model_load_failed"


class InvalidCard(ModelLoadFailed):
    """A card cannot be read, or says something it must not say."""


class CompileFailed(ModelLoadFailed):
    """The network cannot be exported or compiled here; it is served all the same."""


class WeightsUnavailable(ModelLoadFailed):
    """The weights are neither here nor to be had; the message names the file that would do."""


class WeightsMismatch(ModelLoadFailed):
    """The weights are damaged, are not the ones the card names, or do not fit the network."""


class UnknownLayer(ModelError):
    """The network has no such module, or the module's output has no features per image."""

    code = "invalid_request"


class RetrainFailed(ModelError):
    """A model cannot be retrained as asked."""

    code = "retrain_failed"


class InvalidDataset(RetrainFailed):
    """A folder of images cannot be trained on."""

    code = "invalid_dataset"


class ModelExists(RetrainFailed):
    """There is a model of that name already."""

    code = "model_exists"


class UnsupportedOption(ModelError):
    """This network cannot do what an option asks; the message says which can."""

    code = "invalid_request"


class NoSuchDevice(UnsupportedOption):
    """This machine has no such device, or none of that kind is computed on."""

    code = "invalid_settings"


class InvalidImage(ModelError):
    """The bytes are not a whole, readable image."""

    code = "invalid_image"


class UnsupportedImage(InvalidImage):
    """The bytes are of a format, or of a pixel type, that is not decoded here."""

    code = "unsupported_image"


class ImageTooLarge(InvalidImage):
    """The image has more bytes or pixels than the limit."""

    code = "image_too_large"
