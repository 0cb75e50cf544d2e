"""Images and labels as resumable batches; image files; caches of text embeddings; contact sheets."""
