"""What a run will take before anything is started: memory of each GPU, time a step, and a refusal
of what will not fit.
"""
