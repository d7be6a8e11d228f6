"""NetworkPolicies, which a plain bridge does not enforce: read from the API, rendered to one table
of nftables.
"""
