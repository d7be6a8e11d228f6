"""Release: images, chart, lists and statements in one folder, built by one command.

Nothing is uploaded. Equal inputs yield equal digests.
"""
