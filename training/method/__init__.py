"""The method: teacher, student, the training loop, and the head that is served."""
