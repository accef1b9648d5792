"""Samplers for diffusion and flow-matching models: DDIM, DDPM and flow-matching Euler.

The noise schedule is the model's own: a diffusers scheduler holds betas or sigmas, prediction type
and spacing.
"""
