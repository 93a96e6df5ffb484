"""From a recipe to a plan: finding what its names refer to, checking that it fits together, and choosing the device."""
