"""Recipes: read, checked with line numbers, overridden."""
