"""Images to embeddings and descriptions to rows of the head: decoding, ONNX sessions, batches, explanations."""
