"""The little world that `nano` is brought up on, and how its base is made."""
