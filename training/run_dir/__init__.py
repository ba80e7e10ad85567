"""The folder of a run: what it holds, where it lives while the run goes, and how the run is continued."""
