"""The multi-view diffusion model and its sampler."""
