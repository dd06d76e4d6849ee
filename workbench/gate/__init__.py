"""SLO gates for CI: cases with objectives, verdicts against limits and committed baselines, and their outputs."""
