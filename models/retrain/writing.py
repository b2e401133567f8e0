"""Writes a retrained model's folder: card, weights, the base's own code, and the confusion matrix."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from safetensors.torch import save_file

from models.card_tables import ReplacedHead
from models.cards import CARD_FILE, Card, Cost, Provenance, Quality, Weights, parse_card
from models.catalog import Entry, file_sha256
from models.retrain import toml
from models.retrain.base import Base
from models.retrain.confusion import draw_confusion
from models.retrain.dataset import Dataset
from models.retrain.measuring import Measured
from models.retrain.options import RetrainOptions

WEIGHTS_FILE = "weights.safetensors"
CONFUSION_FILE = "confusion.png"


def write_model(
    folder: Path,
    base: Base,
    data: Dataset,
    measured: Sequence[Measured],
    *,
    options: RetrainOptions,
    notes: str,
    command: str,
) -> None:
    """Write all files aside, then put them in place at once.

    Args:
        folder: The model's folder; one that is there is replaced.
        base: With the new head and weights in its network.
        data: What was trained on.
        measured: The figures, the most telling first; its confusion is drawn.
        options: How.
        notes: How it was trained, in sentences.
        command: What trains it again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staged.chmod(0o777 & ~_umask())
        _copy_code(base.entry, staged)
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in base.network.state_dict().items()}
        save_file(state, staged / WEIGHTS_FILE)
        best = measured[0]
        title = f"{folder.name}: {best.accuracy:.1%} of {best.num_images} {best.name} pictures right"
        draw_confusion(best.confusion, data.labels, title, staged / CONFUSION_FILE)
        card = make_card(folder.name, base, data, measured, options, notes, command, file_sha256(staged / WEIGHTS_FILE))
        text = toml.dumps(card.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
        parse_card(text, where=CARD_FILE)
        (staged / CARD_FILE).write_text(text, encoding="utf-8")
        _put_in_place(staged, folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def make_card(
    name: str,
    base: Base,
    data: Dataset,
    measured: Sequence[Measured],
    options: RetrainOptions,
    notes: str,
    command: str,
    sha256: str,
) -> Card:
    """Describe a retrained model."""
    card = base.entry.card
    tasks = list(dict.fromkeys([*card.tasks, "embedding"]))
    counts = ", ".join(f"{label} {count}" for label, count in data.counts.items())
    left_out = f"; {len(data.skipped)} files were left out" if data.skipped else ""
    return Card(
        name=name,
        tasks=[task for task in tasks if task != "style_transfer"],
        description=f"{card.name} retrained ({options.mode}) for {_listed(data.labels)}",
        labels=data.labels,
        head=ReplacedHead(layer=base.head),
        weights=Weights(file=WEIGHTS_FILE, sha256=sha256),
        serving=card.serving,
        cost=Cost(
            num_params=sum(parameter.numel() for parameter in base.network.parameters()),
            min_size_hw=card.cost.min_size_hw,
        ),
        licence=f"As the base model and the training pictures allow. {card.name}: {card.licence}",
        provenance=Provenance(
            origin=f"Retrained from {base.entry.target}",
            data=f"{len(data)} pictures in {data.folder.resolve()} ({counts}){left_out}; sha256 {data.sha256[:16]}",
            command=command,
            notes=notes,
        ),
        quality=[Quality(metric="accuracy", value=one.accuracy, split=one.split, command=command) for one in measured],
        **base.card_fields(),
    )


def command_line(
    base: str, images: Path, name: str, options: RetrainOptions, *, test_images: Path | None, force: bool
) -> str:
    """Write the command that retrains in this way."""
    words = ["visionpipe", "models", "retrain", "--base", base, "--images", os.fspath(images), "--name", name]
    if test_images is not None:
        words += ["--test-images", os.fspath(test_images)]
    for option in fields(RetrainOptions):
        value = getattr(options, option.name)
        assert option.default is not MISSING
        if value != option.default:
            words += [f"--{option.name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--force"] if force else words)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 8 else f"{', '.join(labels[:6])} and {len(labels) - 6} more classes"


def _copy_code(entry: Entry, folder: Path) -> None:
    """Copy the base's own Python files, which its network or hooks may need."""
    if entry.folder is None or entry.source != "user":
        return
    for path in sorted(entry.folder.rglob("*.py")):
        target = folder / path.relative_to(entry.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _put_in_place(staged: Path, folder: Path) -> None:
    # A folder cannot be replaced in one step; the old one stays whole until the new one is.
    old = staged.with_name(f"{staged.name}.old")
    if folder.exists():
        folder.rename(old)
    staged.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
