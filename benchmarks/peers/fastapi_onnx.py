"""Plain FastAPI and ONNX Runtime."""

from __future__ import annotations

from common import Classifier, Head
from plain_fastapi import serve

if __name__ == "__main__":
    serve(Head(), Classifier().classify)
