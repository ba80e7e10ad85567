"""The commands of `d3gzsl-train`, one per file; what takes long to import is imported when a command runs."""
