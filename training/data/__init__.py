"""From plain files to token ids and tensors."""
