"""Image files to pixels: what is read, what it would cost, and what each stored number means."""
