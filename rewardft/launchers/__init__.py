"""Launchers of the core: where the runs of a comparison are made."""
