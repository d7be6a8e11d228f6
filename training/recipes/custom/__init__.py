"""Stages and recipes on one's own files, from the command line."""
