"""What lies on disk: files that are never half written, trees of arrays by name, checkpoints."""
