"""The reference plugins of rewardft, each readable alone."""
