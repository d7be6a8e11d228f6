"""Enforcement of NetworkPolicies by nftables, since a plain bridge does not enforce them."""
