"""How we know: metrics, tiled restoration, scores."""
