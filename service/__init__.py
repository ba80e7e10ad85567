"""A bundle over HTTP: images in, ranked classes out, and new classes at run time."""

import os

# ONNX Runtime's official builds send usage events to their maker over the network and keep a device id in the home
# directory, unless this variable stands before the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
