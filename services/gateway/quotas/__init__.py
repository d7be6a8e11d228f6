"""Limits on turns, requests and tokens by user and tenant."""
