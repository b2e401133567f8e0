"""Retraining from start to end: base and pictures in, a model's folder out."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.cards import NAME_PATTERN
from models.catalog import Catalog, Entry
from models.errors import ModelExists, RetrainFailed, UnknownModel
from models.retrain.base import Base, open_base
from models.retrain.dataset import Dataset, Skipped, read_folder, split
from models.retrain.finetune import all_logits, fine_tune
from models.retrain.frozen import Fitted, Samples, compute, fit_linear
from models.retrain.measuring import Measured, measure
from models.retrain.options import Report, RetrainOptions, unreported
from models.retrain.svm import fit_svm
from models.retrain.writing import command_line, write_model

MAX_DIFFERENCE = 1e-2
"""Largest difference between what the fitted layer and the whole network say, in logits relative to their size."""


@dataclass(frozen=True)
class Retrained:
    """A model that was made."""

    entry: Entry
    """Its catalog entry."""
    measured: list[Measured]
    """How good it is: on the test pictures where there are some, then on the validation pictures."""
    counts: dict[str, int]
    """Readable pictures of each class."""
    num_training: int
    """Pictures that were trained on."""
    skipped: list[Skipped]
    """Files that were left out."""
    notes: str
    """How it was trained, in sentences."""
    seconds: float
    """How long it took."""


def retrain(
    base: str,
    images: Path,
    name: str,
    models_folder: Path,
    *,
    options: RetrainOptions | None = None,
    test_images: Path | None = None,
    force: bool = False,
    report: Report = unreported,
) -> Retrained:
    """Make a classification model of one's own.

    Args:
        base: The network to start from: ``name`` or ``name@digest``.
        images: Folder with one sub-folder of pictures per class.
        name: What to call the new model.
        models_folder: Where its folder is written.
        options: How; the defaults if not given.
        test_images: Folder of the same form that is only measured on.
        force: Whether a model of that name is replaced.
        report: Told of progress.

    Raises:
        ModelExists: There is a model of that name.
        InvalidDataset: A folder of pictures cannot be used.
        RetrainFailed: Something else is not as it must be.
        UnknownModel: There is no such base.
        ModelLoadFailed: The base cannot be loaded.
    """
    started, options, models_folder = time.monotonic(), options or RetrainOptions(), models_folder.expanduser()
    catalog = Catalog(models_folder)
    _check_name(name, catalog, models_folder, force)
    source = open_base(catalog.find(base), options.device, report)
    data = read_folder(images.expanduser(), source.prepare, report)
    test = _read_test(test_images, source, data, report)
    training, validation = split(data, options.validation_fraction, options.seed)
    notes = _fit(source, data, training, validation, options, report)
    told = f"{len(validation)} of {len(data)} pictures, stratified by class, seed {options.seed}"
    use = "" if options.mode == "svm" else ", which also chose when to stop"
    measured = [measure(source, data, validation, options, name="validation", split=f"validation: {told}{use}")]
    if test is not None:
        told = f"test: {len(test)} pictures in {test.folder.resolve()}, used for nothing else"
        measured.insert(0, measure(source, test, range(len(test)), options, name="test", split=told))
    command = command_line(source.entry.target, images, name, options, test_images=test_images, force=force)
    write_model(models_folder / name, source, data, measured, options=options, notes=notes, command=command)
    skipped = data.skipped + (test.skipped if test is not None else [])
    entry = Catalog(models_folder).find(name)
    return Retrained(entry, measured, data.counts, len(training), skipped, notes, time.monotonic() - started)


def _check_name(name: str, catalog: Catalog, models_folder: Path, force: bool) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise RetrainFailed(
            f"name: expected lower-case letters, digits, dots, dashes and underscores, at most 64, got {name!r}."
        )
    if force:
        return
    if (models_folder / name).exists():
        raise ModelExists(
            f"{models_folder / name} is there already. Choose another --name, or replace it with --force.", model=name
        )
    try:
        hidden = catalog.find(name)
    except UnknownModel:
        return
    raise ModelExists(
        f"{name!r} is the name of a {hidden.source} model, which yours would hide. Choose another --name, or insist "
        "with --force.",
        model=name,
    )


def _read_test(folder: Path | None, source: Base, data: Dataset, report: Report) -> Dataset | None:
    if folder is None:
        return None
    test = read_folder(folder.expanduser(), source.prepare, report, unlike=data, min_images=0)
    if not len(test):
        raise RetrainFailed(f"{folder}: expected readable pictures that are not among those to train on, got none.")
    return test


def _fit(
    source: Base,
    data: Dataset,
    training: Sequence[int],
    validation: Sequence[int],
    options: RetrainOptions,
    report: Report,
) -> str:
    """Train; the source's network has its new head afterwards. Gives what to say about it."""
    split_told = f"{len(training)} pictures trained on, {len(validation)} to validate, split by class."
    if options.mode == "full":
        epoch = fine_tune(source, data, training, validation, options, report)
        return (
            "All layers fine-tuned by AdamW from a head fitted to frozen features, kept after epoch "
            f"{epoch} of at most {options.max_epochs}. {split_told} Augmentation: {options.augmentation}."
        )
    samples = compute(source, data, training, options, report, part="training", views=options.num_views)
    held = compute(source, data, validation, options, report, part="validation")
    if options.mode == "svm":
        fitted = fit_svm(samples, len(data.labels), options, report)
    else:
        fitted = fit_linear(samples, held, len(data.labels), options, report)
    _put_in(source, fitted, data, validation, held, options)
    return f"{fitted.told} {split_told} {options.num_views} versions of each training picture ({options.augmentation})."


def _put_in(
    source: Base, fitted: Fitted, data: Dataset, validation: Sequence[int], held: Samples, options: RetrainOptions
) -> None:
    """Make the fitted layer the network's head, and make sure that nothing behind it changes what it says."""
    expected = torch.from_numpy(held.features @ fitted.weight.T + fitted.bias).log_softmax(dim=1)
    source.replace(torch.from_numpy(fitted.weight), torch.from_numpy(fitted.bias))
    told = all_logits(source, data, validation, options).log_softmax(dim=1)
    if not bool(((told - expected).abs() <= MAX_DIFFERENCE * (1 + expected.abs())).all()):
        raise RetrainFailed(
            f"Expected {source.entry.name} to answer with the logits that {source.head!r} gives, but something behind "
            "it changes them. Use --mode full, which trains through it.",
            model=source.entry.name,
        )
