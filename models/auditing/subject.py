"""The classifier that is audited, and the questions about its answers.

Shape suffixes: 1 one image, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from models.attribution import Question
from models.catalog import Entry
from models.classifier import Classifier
from models.devices import pick_device
from models.errors import UnsupportedOption
from models.loading import hooks, load
from models.preprocess import Preprocess, bounds


@dataclass(frozen=True)
class Subject:
    """A classification model in fp32.

    Attributes:
        entry: Its catalog entry.
        classifier: On the device.
        preprocess: From picture to input.
        device: Where it computes.
    """

    entry: Entry
    classifier: Classifier
    preprocess: Preprocess
    device: torch.device

    @classmethod
    def open(cls, entry: Entry, device: str = "auto") -> Subject:
        """Load a model.

        Args:
            entry: Its catalog entry.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            UnsupportedOption: It is no classification network, or makes its input in code of its own.
            ModelLoadFailed: It cannot be loaded.
        """
        card = entry.card
        if "explanation" not in card.served_tasks:
            raise UnsupportedOption(
                f"Expected a classification model, {entry.name} does {', '.join(card.tasks)}. "
                "`visionpipe models list --task classification` lists those that can be audited."
            )
        owned = hooks(entry)
        if owned.preprocess is not None:
            raise UnsupportedOption(
                f"Expected a model whose card says how pictures become inputs, {entry.name} has a preprocess hook of "
                "its own, after which levels and baselines are not known. Describe it in the card's [preprocess]."
            )
        on = pick_device(device)
        try:
            network = load(entry).to(on)
        except (RuntimeError, AssertionError) as error:
            raise UnsupportedOption(f"The device {device!r} cannot be used: {error}. Try --device cpu.") from error
        labels = len(card.labels) or None
        classifier = Classifier(network, postprocess=owned.postprocess, num_classes=labels, name=entry.name)
        return cls(entry, classifier, Preprocess(card.preprocess), on)

    def class_id(self, target: str) -> int:
        """Find a class by its label or number.

        Raises:
            UnsupportedOption: There is none, or several bear the label.
        """
        labels = self.entry.card.labels
        if labels.count(target) == 1:
            return labels.index(target)
        if labels.count(target) > 1:
            raise UnsupportedOption(f"Expected a label of one class, {target!r} is that of several. Give its number.")
        if target.isdigit() and (not labels or int(target) < len(labels)):
            return int(target)
        raise UnsupportedOption(
            f"Expected a class of {self.entry.name} by label or by number from 0 to {len(labels) - 1}, got {target!r}."
        )

    def question(self, picture: Image.Image, target: int | None = None) -> tuple[Question, float]:
        """Ask about one picture; "nothing there" is the preprocessing's mean colour.

        Args:
            picture: Upright, RGB or L.
            target: The class; the most probable one unless given.

        Returns:
            The question, and the class's probability.

        Raises:
            UnsupportedOption: There is no such class.
        """
        x_1CHW = self.preprocess(picture)[None].to(self.device)
        with torch.no_grad():
            probabilities_K: Tensor = self.classifier(x_1CHW)[0].softmax(0)
        target = int(probabilities_K.argmax()) if target is None else target
        if target >= len(probabilities_K):
            raise UnsupportedOption(f"Expected a class from 0 to {len(probabilities_K) - 1}, got {target}.")
        low_C, high_C = (value.to(self.device) for value in bounds(self.preprocess.preprocessing))
        question = Question(
            self.classifier,
            x_1CHW,
            target,
            torch.zeros_like(x_1CHW),
            low_C=low_C,
            high_C=high_C,
        )
        return question, float(probabilities_K[target])
