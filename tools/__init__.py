"""Tools beside the package: what trains the weights that it ships."""
