"""Files: paths that users give, whole writes, JSON, digests, and streams that end nothing."""
