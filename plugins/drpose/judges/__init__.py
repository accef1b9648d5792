"""Judges that no reward knows."""
