"""The plugin nft."""
