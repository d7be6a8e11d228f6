"""The services behind the door, each as the small interface that the domain asks for: protocol in
here, domain out there.
"""
