"""Registered classes on disk: an append-only log of changes, from which every version can be rebuilt."""
