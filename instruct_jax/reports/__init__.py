"""The report a run ends with: a page, its plots and a machine-readable summary."""
