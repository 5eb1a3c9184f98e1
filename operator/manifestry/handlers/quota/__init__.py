"""TenantQuotas, JobTypes and ledgers: gather, ask `core.quota`, write.

Uses `runtime`.
"""
