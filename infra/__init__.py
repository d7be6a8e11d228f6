"""What surrounds the product: installation, the embedded run, simulated users, tools."""
