"""Pre-training of small decoders on openings of encyclopedia articles.

Commands: `thumbwheel train pretrain` and `thumbwheel train scaling`.
"""
