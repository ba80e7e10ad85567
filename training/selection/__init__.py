"""Model selection: on pseudo-unseen classes of trainval, or on the test rows as papers do it."""
