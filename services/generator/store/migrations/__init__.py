"""The generator's database, step by step; run by `python -m services.generator migrate`."""
