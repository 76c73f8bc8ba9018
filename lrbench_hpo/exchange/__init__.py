"""Files and the results of other tools, in and out."""
