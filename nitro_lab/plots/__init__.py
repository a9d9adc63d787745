"""Pictures: each function takes data and gives a Figure; none of them runs or trains a model."""
