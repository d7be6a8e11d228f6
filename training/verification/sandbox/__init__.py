"""Sandbox for generated code: bubblewrap without network and foreign files, with limits everywhere.

Code never runs without the sandbox. Output is untrusted, and secrets stay outside, in particular
expected values (verification/code.py).
"""
