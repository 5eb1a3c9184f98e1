"""One request, whichever it is: its context, body and fields, its problems, its audit record and telemetry.

Who the caller is belongs to `access`, what is asked for to the subjects. Uses no other room.
"""
