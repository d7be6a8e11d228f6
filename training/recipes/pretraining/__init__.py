"""Small decoders from nothing on the openings of an encyclopedia: `python -m training pretrain` and
`python -m training scaling`.
"""
