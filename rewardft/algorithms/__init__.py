"""The algorithms of the core, and what those of plugins share: rollouts, advantages, losses."""
