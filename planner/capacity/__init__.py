"""The highest load that a given plan carries within an SLO."""
