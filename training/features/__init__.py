"""From photos to features: the backbone, and one vector per image in a store."""
