"""Recipes that ship with rewardft: `rewardft ls` lists them, `rewardft cp` copies one to edit."""
