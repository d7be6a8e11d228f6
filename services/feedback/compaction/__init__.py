"""Compaction: merging of segments and removal of repeated, erased and expired rows."""
