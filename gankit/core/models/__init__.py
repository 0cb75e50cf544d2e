"""From a recipe to networks and model folders; pretrained weights, warm starts, averages of weights."""
