"""Folders written atomically, and the checkpoints that a run keeps."""
