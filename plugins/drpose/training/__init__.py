"""Training of the plugin's own networks."""
