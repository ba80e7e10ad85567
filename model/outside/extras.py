"""Packages that only some uses need, and the extras of this project that bring them."""

from __future__ import annotations

from model.errors import MissingDependencyError

_EXTRAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("matplotlib", "onnxscript", "optuna", "safetensors", "tomli_w"), ("training",)),
    **dict.fromkeys(("torch", "torchvision"), ("training",)),
    "cryptography": ("signing",),
    "filelock": ("training", "bulk"),
    "onnxruntime": ("cpu", "gpu"),
    "opentelemetry": ("tracing",),
    "psycopg": ("postgres",),
    "pyarrow": ("bulk",),
    "pillow_heif": ("heic",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "tokenizers": ("text",),
}


def what_is_missing(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """What to say of a package that was not found; None where no extra brings it, so that it is a fault of ours."""
    package = (error.name or "").partition(".")[0]
    extras = _EXTRAS.get(package)
    return None if extras is None else MissingDependencyError(f"the package {package} is not installed", *extras)
