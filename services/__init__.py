"""The services of Thumbwheel; each folder is one process."""
