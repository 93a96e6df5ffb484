"""From a recipe to a plan: what its names mean, what cannot work together, where it computes."""
