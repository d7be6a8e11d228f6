"""Installation, local runs, servers, simulated users and tools around the product."""
