"""What the processes tell of themselves: metrics, logs, the operator's health port.

Every metric of `manifestry` is declared here. Uses no other room.
"""
