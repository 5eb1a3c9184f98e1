"""Who may do what: permissions, identities, the headers that claim them, and the record of each decision.

How a credential is verified belongs to the facade. Uses `kube`.
"""
