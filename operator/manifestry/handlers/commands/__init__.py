"""What an administrator does by hand: `python -m manifestry store ...`, `... retained ...`.

Each command reads, decides and writes once; what runs for ever is in `process`. Uses every other room.
"""
