"""Building networks from recipes, model folders, pretrained weights, warm starts, and averages of weights."""
