"""HTTP: what comes in, what goes out, and the problems in between."""
