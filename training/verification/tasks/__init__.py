"""Sources of items: reasoning-gym generators, permitted train splits, generated coding tasks."""
