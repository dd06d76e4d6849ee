"""Floor 0: model, hardware and engine cards, plans and SLOs as data, and the one strict loader."""
