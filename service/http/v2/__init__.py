"""The Open Inference Protocol v2 for the same model."""
