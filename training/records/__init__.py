"""Files that a run writes about its stages: events, progress, samples and failures."""
