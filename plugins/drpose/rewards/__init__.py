"""PoseScore and its other forms."""
