"""Who may hold what: TenantQuotas, and the ledgers of Jobs as values with the only ways to change them.

Storage has a room of its own, `quota.storage`; what a Job does with its place belongs to `jobs`. Uses `kube`.
"""
