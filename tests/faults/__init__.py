"""Break what the product stands on: a network that fails, a disk that is small, a process that dies."""
