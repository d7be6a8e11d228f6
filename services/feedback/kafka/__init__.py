"""Between spool and sink, where several processes serve: the relay to a topic, and the topic's
partitions as logs.
"""
