"""Where items come from: generators of reasoning-gym, train splits that are allowed, and functions
to write that are made up here.
"""
