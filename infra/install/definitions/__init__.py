"""Resource definitions (CRDs) of other operators whose resources the chart creates.

Tests use the definitions; the product does not.
"""
