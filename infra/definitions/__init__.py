"""The resources of other operators that the chart writes, as their makers define them: for tests,
never part of the product.
"""
