"""What a trained artefact is: vocabulary, classes, preprocessing, head, calibration and the bundle file format.

NumPy, SciPy, Pillow, simplejpeg and onnx only, no torch. :class:`Bundle` is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.bundle import Bundle

__all__ = ["Bundle", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Bundle":
        from model.bundle import Bundle

        return Bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
