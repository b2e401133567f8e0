"""A hosted network as feature visualization looks at it: its layers, what its units see, which requests it can do.

Shape suffixes: N images, C channels, H height, W width; 1 one image.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

from torch import Tensor

from models.cards import Preprocessing
from models.parity import synthetic
from models.preprocess import Preprocess
from models.receptive_field import BoxXYXY, ReceptiveField, receptive_field
from models.visualization import Peak, Plan, Regularizers, Survey, check_deconvnet, filters, first_filters
from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.requests import FeatureVisualizationOptions
from workers.hosted import HostedModel

MAX_CLIMB_BYTES = 2**29
"""What the units that one request climbs to may keep together."""
FIELDS_KEPT = 64
"""Receptive fields that are remembered, by layer and size of the input."""
JITTER_PART = 28
"""Jitter is one pixel for so many of the image's side, unless the request says otherwise."""


class InspectedNetwork:
    """The fp32 network of a hosted model; whatever runs it belongs onto the device thread.

    Args:
        hosted: The model.
    """

    def __init__(self, hosted: HostedModel) -> None:
        self.hosted = hosted
        self.device = hosted.device.torch_device
        self.preprocess = hosted.hooks.preprocess or Preprocess(hosted.card.preprocess)
        self._fields: OrderedDict[tuple[str, tuple[int, ...]], ReceptiveField] = OrderedDict()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How pixels become the input; none where only the card's own hook knows."""
        return None if self.hosted.hooks.preprocess is not None else self.hosted.card.preprocess

    @cached_property
    def probe(self) -> Tensor:
        """An input (1, C, H, W) of the network's own size."""
        height, width = self.hosted.card.preprocess.input_size_hw or (256, 256)
        made: Tensor = self.preprocess(synthetic(0).resize((width, height)))
        return made[None].to(self.device)

    @cached_property
    def survey(self) -> Survey:
        """Its layers; runs the network once."""
        return Survey(self.hosted.master, self.probe)

    @cached_property
    def _deconvnet_fault(self) -> Exception | None:
        try:
            check_deconvnet(self.survey, self.probe)
        except Exception as error:  # noqa: BLE001 - told to whoever asks for a deconvnet
            return error
        return None

    def measure(self) -> None:
        """Run what later calls only look up, so that they may come from any thread."""
        _ = self.survey, self._deconvnet_fault

    def layers(self, options: FeatureVisualizationOptions) -> list[str]:
        """Name the layers that a request means."""
        if options.layers is not None:
            return list(dict.fromkeys(options.layers))
        if options.method == "filters":
            return [first_filters(self.survey, self._input_shape)]
        return [self.survey.last()]

    def check(self, options: FeatureVisualizationOptions) -> None:
        """Refuse what this network cannot do.

        Raises:
            ModelError: A layer is unknown or has no channels, a channel is out of range, there is no ReLU for a
                deconvnet, or the weights of a layer are no filters.
            InvalidRequestError: The card's own preprocessing hides what is needed, or it is too much at once.
        """
        for layer in self.layers(options):
            self.survey.check(layer, options.channels or ())
            if options.method == "filters":
                filters(self.survey, layer, self._input_shape)
        if options.method == "deconvnet":
            self._check_deconvnet(options)
        if options.method == "activation_maximization":
            self._check_climb(options)

    def channels(self, layer: str, options: FeatureVisualizationOptions) -> list[int]:
        """Name the channels of a layer, where no image tells which."""
        if options.channels is not None:
            return list(dict.fromkeys(options.channels))
        return list(range(min(options.max_channels, self.survey.check(layer).channels or 0)))

    def filters(self, layer: str) -> Tensor:
        """Give a layer's filters (K, C, H, W)."""
        return filters(self.survey, layer, self._input_shape)

    def plan(self, options: FeatureVisualizationOptions) -> Plan:
        """Say how to climb."""
        height, width = self.survey.size_hw
        size_hw = (height, width) if options.size_px is None else (options.size_px, options.size_px)
        wanted = options.regularization
        jitter_px = max(1, round(min(size_hw) / JITTER_PART)) if wanted.jitter_px is None else wanted.jitter_px
        return Plan(
            size_hw=size_hw,
            mean=self.hosted.card.preprocess.mean,
            std=self.hosted.card.preprocess.std,
            steps=options.steps,
            learning_rate=options.learning_rate,
            regularizers=Regularizers(
                l2=wanted.l2,
                tv=wanted.tv,
                jitter_px=jitter_px,
                blur_every=wanted.blur_every,
                blur_sigma_px=wanted.blur_sigma_px,
            ),
            seed=options.seed,
        )

    def climb_bytes(self, options: FeatureVisualizationOptions) -> int:
        """Say how much memory a climb keeps between its steps."""
        num_units = sum(len(self.channels(layer, options)) for layer in self.layers(options))
        return num_units * self.plan(options).unit_bytes

    def box_xyxy(self, peak: Peak, x_NCHW: Tensor) -> BoxXYXY | None:
        """Give the receptive field of a unit's strongest position, in pixels of the input.

        None where the unit has positions, but none of them is the strongest.
        """
        if peak.position_yx is None and self.survey.layers[peak.layer].has_positions:
            return None
        field = self._field(peak.layer, x_NCHW)
        row, column = peak.position_yx or (0, 0)
        rows, columns = field.positions_hw
        if row >= rows or column >= columns:
            return (0.0, 0.0, float(x_NCHW.shape[-1]), float(x_NCHW.shape[-2]))
        return field.box_xyxy(row, column)

    def _field(self, layer: str, x_NCHW: Tensor) -> ReceptiveField:
        key = (layer, tuple(x_NCHW.shape[-2:]))
        if key not in self._fields:
            self._fields[key] = receptive_field(self.hosted.master, x_NCHW[:1], layer)
        self._fields.move_to_end(key)
        while len(self._fields) > FIELDS_KEPT:
            self._fields.popitem(last=False)
        return self._fields[key]

    @property
    def _input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.probe.shape[1:]
        return channels, height, width

    def _check_deconvnet(self, options: FeatureVisualizationOptions) -> None:
        if self._deconvnet_fault is not None:
            raise self._deconvnet_fault
        if self.preprocessing is None and options.patches:
            raise self._hidden("where a pattern lies in the original is not known. Set patches=false")

    def _check_climb(self, options: FeatureVisualizationOptions) -> None:
        if self.preprocessing is None:
            raise self._hidden("the range of its input is not known. Use deconvnet, activations or filters")
        needed, plan = self.climb_bytes(options), self.plan(options)
        if needed > MAX_CLIMB_BYTES:
            raise InvalidRequestError(
                f"Expected units that keep at most {MAX_CLIMB_BYTES / 2**20:,.0f} MiB together while they climb, got "
                f"{needed / 2**20:,.0f} MiB for {needed // plan.unit_bytes} units of "
                f"{plan.size_hw[1]}x{plan.size_hw[0]} pixels. Name fewer channels, or ask in several requests.",
                fields=["options.channels", "options.max_channels"],
            )

    def _hidden(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"Expected a card that says how pixels become the input, but {self.hosted.card.name!r} has a "
            f"preprocessing hook of its own, so {what}.",
            fields=["options.method"],
        )
