"""What surrounds the product: installation, the embedded run, the real servers, simulated users,
tools.
"""
