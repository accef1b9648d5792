"""DrPose's part of a comparison report."""
