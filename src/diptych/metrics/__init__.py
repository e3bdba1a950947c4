"""One file a measure. Each is a @metric: a function from an Exam to named estimates."""
