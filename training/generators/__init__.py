"""Base generators, each a file: `wgan`, `cegzsl`, `tfvaegan`, `diffusion`."""

from __future__ import annotations

from collections.abc import Callable

from training.config import TrainConfig
from training.datasets.dataset import Task
from training.generators import diffusion, tfvaegan, wgan
from training.generators.base import Method
from training.generators.cegzsl import CeGzsl
from training.networks.d3gzsl import Student, Teacher
from training.networks.generator import Sampler

METHODS: dict[str, Callable[[Task, Teacher, Student, TrainConfig], Method]] = {
    "wgan": wgan.Wgan,
    "cegzsl": CeGzsl,
    "tfvaegan": tfvaegan.TfVaegan,
    "diffusion": diffusion.Diffusion,
}
SAMPLERS = {
    "wgan": wgan.sampler,
    "cegzsl": wgan.sampler,
    "tfvaegan": tfvaegan.sampler,
    "diffusion": diffusion.sampler,
}


def new_method(task: Task, teacher: Teacher, student: Student, config: TrainConfig) -> Method:
    """The untrained method of a configuration, on the task's device."""
    return METHODS[config.generator.method](task, teacher, student, config).to(task.features.device)


def new_sampler(config: TrainConfig, *, feature_dim: int, attribute_dim: int, seen_classes: int) -> Sampler:
    """A sampler to load trained weights into."""
    return SAMPLERS[config.generator.method](
        config, feature_dim=feature_dim, attribute_dim=attribute_dim, seen_classes=seen_classes
    )
