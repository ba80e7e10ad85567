"""Classes described by text: what a class keeps of its text, and the encoder that turns sentences into vectors."""
