"""The plugin dpo."""
