"""A bundle over HTTP: images in, ranked classes out, and new classes at run time.

The names below are loaded when they are first used: importing this package alone costs next to nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.client import AsyncClient, Client, ClientError, Retries, ServiceError
    from service.library import Classifier
    from service.server.app import create_app
    from service.service import Service
    from service.settings import Settings

__all__ = [
    "AsyncClient",
    "Classifier",
    "Client",
    "ClientError",
    "Retries",
    "Service",
    "ServiceError",
    "Settings",
    "create_app",
]

_DEFINED_IN = {
    "AsyncClient": "service.client",
    "Classifier": "service.library",
    "Client": "service.client",
    "ClientError": "service.client",
    "Retries": "service.client",
    "Service": "service.service",
    "ServiceError": "service.client",
    "Settings": "service.settings",
    "create_app": "service.server.app",
}

# ONNX Runtime's official builds send usage events to their maker over the network and keep a device id in the home
# directory, unless this variable stands before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)
