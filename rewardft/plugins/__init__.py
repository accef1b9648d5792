"""Plugins: found, loaded, checked, and the components that they register."""
