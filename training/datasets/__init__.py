"""What a run learns from: a store of features with its classes, or a public benchmark in its own files."""
