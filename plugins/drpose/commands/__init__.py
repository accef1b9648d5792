"""`rewardft drpose ...`."""
