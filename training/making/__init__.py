"""From a folder of photos to a bundle: the steps of the other commands in their order, and how long they will take."""
