"""Compare runs honestly: expand, run to equal budgets, pool over seeds and samples, report."""
