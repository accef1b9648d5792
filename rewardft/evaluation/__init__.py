"""Evaluation on held-out samples, paired comparisons, alarms, pictures."""
