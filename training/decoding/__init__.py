"""Decoding: sampling, beam search, stop conditions, and incremental text output."""
