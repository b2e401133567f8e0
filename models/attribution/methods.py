"""The attribution methods by name."""

from __future__ import annotations

from models.attribution.answers import Explained
from models.attribution.attributor import Attributor
from models.attribution.backprop import Deconvolution, GuidedBackprop, InputXGradient, Saliency
from models.attribution.cam import GradCam
from models.attribution.kernel_shap import KernelShap
from models.attribution.lime import Lime
from models.attribution.occlusion import Occlusion
from models.attribution.path import IntegratedGradients
from models.attribution.question import Question, Settings
from models.attribution.sampled import GradientShap, SmoothGrad

METHODS: dict[str, type[Attributor]] = {
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "smoothgrad": SmoothGrad,
    "integrated_gradients": IntegratedGradients,
    "guided_backprop": GuidedBackprop,
    "deconvolution": Deconvolution,
    "grad_cam": GradCam,
    "occlusion": Occlusion,
    "lime": Lime,
    "kernel_shap": KernelShap,
    "gradient_shap": GradientShap,
}
"""Every method, by its paper's name."""


def attributor(question: Question, settings: Settings) -> Attributor:
    """Make the attributor of the settings' method; nothing is run yet.

    Raises:
        UnsupportedOption: A setting does not fit the question, or there is no such method.
    """
    return METHODS[settings.method](question, settings)


def explain(question: Question, settings: Settings) -> Explained:
    """Run all steps of a method, and give its attribution.

    Raises:
        UnsupportedOption: A setting does not fit the question or the network.
        UnknownLayer: The network has no layer of that name that would do.
    """
    made = attributor(question, settings)
    for _ in made.steps():
        pass
    return made.best()
