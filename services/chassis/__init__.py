"""What every service stands on. A closed list: nothing enters that knows a service's nouns, or that
fewer than three need.
"""
