"""The torch networks: teacher and student, generators, critics, denoiser."""
