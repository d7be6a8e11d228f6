"""Pre-training of small decoders on openings of encyclopedia articles.

Commands: `python -m training pretrain` and `python -m training scaling`.
"""
