"""What people decide about what they said: consent, erasure; and the keys under which their texts
are sealed.
"""
