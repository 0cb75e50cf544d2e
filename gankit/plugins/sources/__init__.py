"""Source plugins: labelled images from folders, zip files and WebDataset shards."""
