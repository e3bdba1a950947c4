"""The ruler put to use: subjects, references, reports, sweeps, comparisons. It is never handed a family."""
