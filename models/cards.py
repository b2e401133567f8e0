"""Cards: the description of one ready-to-host model, read from ``card.toml``."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from models.card_tables import (
    DetectionDefaults,
    EmbeddingDefaults,
    Part,
    ReplacedHead,
    SegmentationDefaults,
    StyleTransferDefaults,
)
from models.errors import InvalidCard

CARD_FILE = "card.toml"
"""Name of the card in a model's folder."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""What a model may be called; also good for a folder."""

Task = Literal[
    "classification",
    "segmentation",
    "detection",
    "style_transfer",
    "spatial_transformer",
    "embedding",
    "explanation",
    "adversarial",
    "feature_visualization",
]
"""What can be asked of an image."""

IMPLIED_TASKS: dict[Task, tuple[Task, ...]] = {
    "classification": ("explanation", "adversarial", "feature_visualization"),
}
"""What a network that does one task can be asked besides, without its card saying so."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
"""A sha256, or at least its first eight hexadecimal digits."""

Hook = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""``module:function``: a ``.py`` file of the model's own folder, or an importable module."""

SizeHW = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""Height and width in pixels."""


class Weights(Part):
    """Where the weights lie; without this table the factory brings its own."""

    file: str | None = None
    """Safetensors file, or tensors saved by ``torch.save``, inside the model's folder."""
    url: str | None = None
    """Where the same can be downloaded; then ``sha256`` is required."""
    sha256: Sha256 | None = None
    """Hash of the file, or at least its first eight digits; checked at every load."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError("give either file or url")
        if self.url is not None and self.sha256 is None:
            raise ValueError("weights from a url need a sha256")
        if self.file is not None and (PurePosixPath(self.file).is_absolute() or ".." in PurePosixPath(self.file).parts):
            raise ValueError("file must lie inside the model's folder")
        return self


class Preprocessing(Part):
    """From an upright picture to the network's input: resize, centre crop, scale to [0, 1], normalise."""

    mode: Literal["RGB", "L"] = "RGB"
    """Three colour channels, or one of grey."""
    resize: Annotated[int, Field(ge=1)] | SizeHW | None = None
    """Length of the shorter edge in pixels, or exact height and width; absent leaves the size."""
    crop: Annotated[int, Field(ge=1)] | SizeHW | None = None
    """Edge of the central square in pixels, or height and width; absent leaves the size."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How resizing samples; always antialiased, as Pillow does it."""
    mean: list[FiniteFloat] = Field(default=[0.485, 0.456, 0.406], min_length=1, max_length=3)
    """Subtracted from each channel in [0, 1]."""
    std: list[Annotated[FiniteFloat, Field(gt=0)]] = Field(default=[0.229, 0.224, 0.225], min_length=1, max_length=3)
    """Then divides each channel."""

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        channels = len(self.mode)
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mode {self.mode!r} needs {channels} value(s) each in mean and std")
        return self

    @property
    def input_size_hw(self) -> tuple[int, int] | None:
        """Height and width of the network's input, or ``None`` where it follows the picture."""
        size = self.crop if self.crop is not None else self.resize
        if isinstance(size, int):
            return (size, size) if self.crop is not None else None
        return size


class Hooks(Part):
    """The model's own code around the network, for cards that a table of numbers cannot describe."""

    preprocess: Hook | None = None
    """Called with an upright ``PIL.Image``; gives the input, float32 of shape (C, H, W)."""
    postprocess: Hook | None = None
    """Called with the network's output for a batch; gives what the task expects, such as logits (N, K)."""


class Serving(Part):
    """How a worker hosts the model unless told otherwise."""

    max_batch: int = Field(default=32, ge=1, le=4096)
    """Largest micro-batch, in images."""


class Provenance(Part):
    """Where the weights come from."""

    origin: str
    """Who trained them, or the paper or page that describes them."""
    data: str | None = None
    """What they were trained on, with its licence."""
    command: str | None = None
    """What reproduces them."""
    notes: str | None = None
    """What else a user should know: split, seed, augmentation."""


class Quality(Part):
    """One measured figure."""

    metric: str
    """For example ``accuracy`` or ``acc@5``."""
    value: FiniteFloat
    """In the metric's own unit; accuracies are fractions of 1."""
    split: str
    """On which data; never seen in training."""
    command: str | None = None
    """What measures it again."""


class Cost(Part):
    """What the network is worth in memory and arithmetic."""

    num_params: int | None = Field(default=None, ge=0)
    """Trainable parameters."""
    gflops: FiniteFloat | None = Field(default=None, ge=0)
    """Multiply-adds for one picture, in units of 10^9 (torchvision's count)."""
    min_size_hw: SizeHW | None = None
    """Smallest input that the network accepts."""


class Card(Part):
    """One ready-to-host model."""

    name: str = Field(pattern=NAME_PATTERN)
    """The model's name; also the name of its folder."""
    tasks: list[Task] = Field(min_length=1)
    """What it can be asked."""
    description: str = ""
    """One line for people."""
    network: str = Field(pattern=r"^([a-z0-9_]+|(torchvision|ultralytics):[a-z0-9_-]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    """One of our networks, ``torchvision:<builder>``, ``smp:<architecture>``, ``ultralytics:<name>``, or
    ``module:factory`` of the owner's own code."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network's builder."""
    weights: Weights | None = None
    """Where its weights lie."""
    labels: list[str] = Field(default_factory=list)
    """Names of the classes, in the order of the network's outputs."""
    preprocess: Preprocessing = Preprocessing()
    """From picture to input."""
    hooks: Hooks = Hooks()
    """The owner's own pre- and postprocessing."""
    segmentation: SegmentationDefaults = SegmentationDefaults()
    """What segmentation needs to know."""
    detection: DetectionDefaults = DetectionDefaults()
    """What detection needs to know."""
    style_transfer: StyleTransferDefaults | None = None
    """The encoder's layers; absent for networks whose layers we know."""
    embedding: EmbeddingDefaults | None = None
    """Where features are taken; absent: the input of the classifier's head."""
    head: ReplacedHead | None = None
    """The head that retraining put in; absent: the network keeps its own."""
    parity: list[str] = Field(default_factory=list)
    """Pictures in the model's folder on which faster arithmetic is compared with fp32; absent: synthetic ones."""
    serving: Serving = Serving()
    """How a worker hosts it."""
    cost: Cost = Cost()
    """What it costs."""
    licence: str
    """Licence of the weights: an SPDX identifier or a sentence."""
    provenance: Provenance
    """Where the weights come from."""
    quality: list[Quality] = Field(default_factory=list)
    """What was measured."""

    @property
    def served_tasks(self) -> list[Task]:
        """Every task that it can be asked: those of the card, and those which they imply."""
        implied = [more for task in self.tasks for more in IMPLIED_TASKS.get(task, ())]
        return list(dict.fromkeys([*self.tasks, *implied]))

    def fingerprint(self, *, weights_sha256: str | None, code_sha256: str | None = None) -> str:
        """Condense everything that affects answers into 12 hexadecimal digits.

        Args:
            weights_sha256: Hash of the weights, as far as it is known.
            code_sha256: Hash of the owner's own code in the model's folder.
        """
        content = {"tasks", "network", "arguments", "labels", "preprocess", "hooks"}
        answers = self.model_dump(mode="json", include=content | self._tables())
        answers |= {"weights": weights_sha256, "code": code_sha256}
        canonical = json.dumps(answers, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def _tables(self) -> set[str]:
        """The tasks whose own table the card states: one that is left out changes no digest when it gains fields."""
        return {"segmentation", "detection", "style_transfer", "embedding", "head"} & self.model_fields_set


def parse_card(text: str, *, where: str) -> Card:
    """Read a card from TOML.

    Args:
        text: The TOML document.
        where: The file it came from, for messages.

    Raises:
        InvalidCard: It is not TOML, or a field is missing, unknown or wrong; each is named.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCard(f"{where} is not valid TOML: {error}.", file=where) from error
    try:
        # JSON is the strict mode in which an array may become a tuple.
        return Card.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        faults = [_fault_line(fault) for fault in error.errors()]
        raise InvalidCard(f"{where} is not a usable card:\n  " + "\n  ".join(faults), file=where) from error


def read_card(path: Path) -> Card:
    """Read ``card.toml``; the card's name must be that of its folder.

    Raises:
        InvalidCard: The file cannot be read, or is not a usable card.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCard(f"{path} cannot be read: {error}.", file=str(path)) from error
    card = parse_card(text, where=str(path))
    if card.name != path.parent.name:
        raise InvalidCard(
            f"{path}: name: expected {path.parent.name!r}, the name of the folder, got {card.name!r}.", file=str(path)
        )
    return card


def _fault_line(fault: Any) -> str:
    field = ".".join(str(part) for part in fault["loc"]) or "card"
    if fault["type"] == "missing":
        return f"{field}: expected a value, got nothing"
    if fault["type"] == "extra_forbidden":
        return f"{field}: no such field; got {fault['input']!r}"
    got = repr(fault["input"])
    return f"{field}: {fault['msg']}; got {got if len(got) <= 80 else got[:77] + '...'}"
