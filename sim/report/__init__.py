"""What a run says: metrics, attainment, causes, files, pictures."""
