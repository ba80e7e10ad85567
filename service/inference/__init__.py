"""Images to features and scores: decoding, ONNX sessions, batches, deadlines."""
