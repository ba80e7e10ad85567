"""The torch networks. Only `training` imports them; a service has their ONNX exports instead."""
