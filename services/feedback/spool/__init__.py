"""The way to the ack: decide, claim, seal, then one write and one sync; and the log on the disk
that this leaves.
"""
