"""What a run leaves for people: a page, TensorBoard's files, what it was begun with, and two runs
side by side.
"""
