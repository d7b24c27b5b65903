"""What comes of files, checkpoints, signals and visitors that mean no good, or just go wrong."""
