"""What a run keeps on the disk: its folder, checkpoints, logs."""
