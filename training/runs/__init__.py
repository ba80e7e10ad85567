"""Run directories: what they hold, and the fit that fills one and goes on after a kill."""
