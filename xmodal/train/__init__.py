"""Training and using students: one resumable loop, crops, checkpoints, inference."""
