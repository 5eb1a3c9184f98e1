"""What may be fetched from where: addresses, the one spelling of a URL, the rules for each hop and answer.

Which artifact wants the bytes belongs to `artifacts`. Uses no other room.
"""
