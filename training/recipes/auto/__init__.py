"""Recipe `auto`: a run for any supported model, derived from model, data and hardware."""
