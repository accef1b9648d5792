"""A run or a comparison while it goes on: its report on a page that follows it."""
