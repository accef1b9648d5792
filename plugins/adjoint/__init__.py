"""The plugin adjoint."""
