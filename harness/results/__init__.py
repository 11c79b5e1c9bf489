"""Folders of results, written and read: artefacts, records, leases, and what is merged, removed or handed on."""
