"""Tools for plugin authors: conformance checks, a tiny CPU model and a recipe runner."""
