"""The Kopf shell: gather, plan, apply."""
