"""A bundle over HTTP: images in, ranked classes out, and new classes at run time."""
