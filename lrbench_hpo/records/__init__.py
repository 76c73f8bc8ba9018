"""Plain values and their words: runs, tasks, scores, rankings, reports. No framework."""
