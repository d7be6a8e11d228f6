"""Format of conversations as a model reads them: control tokens in texts, and chat templates.

The trainer, the model server for CPUs and the generator apply the same rules, so that a
conversation has the same token ids in training and in serving. This package imports tokenizers and
jinja2, and nothing of the project.
"""
