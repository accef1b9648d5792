"""What a plugin author reads: protocols, hooks and the records that hooks receive."""
