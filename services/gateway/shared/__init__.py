"""What gateways share through Valkey: running turns, quotas, answers. Everything here may be away,
and says so.
"""
