"""What an algorithm works with: the policy, rewards, adapters, batches."""
