"""What works on a finished run: open, evaluate, sample, adapter strengths."""
